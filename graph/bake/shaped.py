"""The shapings of a step as ONNX, each made of the operations that the executor's numpy uses."""

from collections.abc import Sequence

from fewstep.graph.builder import Builder
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import Clip, Shaping


def check_shaping(shaping: Shaping | None) -> None:
    """UserError for a shaping that has no form in a file."""
    if shaping is not None and not isinstance(shaping, Clip):
        raise UserError(
            f"the shaping {shaping} looks at a whole sample, and has no form in ONNX with the executor's bits",
            "clip, or leave the shaping out",
        )


def lay_clip(inner: Builder, value: str, bounds: Sequence[str], name: str) -> str:
    """min(max(value, low), high); the bounds are tensors of one element."""
    low, high = bounds
    return inner.node("Min", (inner.node("Max", (value, low), f"{name}_above"), high), name)
