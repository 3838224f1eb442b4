"""The slots of a bundle's graphs: which layers may have a LoRA at run time, and the inputs that take it."""

from typing import TYPE_CHECKING, Literal

from fewstep.runtime.kinds.kind import Kind

if TYPE_CHECKING:
    from fewstep.runtime.bundle.manifest import Description

End = Literal["down", "up"]
ENDS: tuple[End, End] = ("down", "up")


class LoraSlots(Kind, frozen=True):
    """`layers` have a slot, each with the shape [out, in, *kernel] of its weight. A layer takes at most `rank`, the
    ranks of several files added up. `names` are all layers with weights, by which files are understood. `graphs` says
    which of the conditioner, the prologue and the body have the slots of which layers."""

    rank: int
    layers: dict[str, tuple[int, ...]]
    names: tuple[str, ...]
    graphs: dict[str, tuple[str, ...]]

    def describe(self, of: "Description") -> str:
        return f"LoRA slots of {len(self.layers)} layers, ranks up to {self.rank}"


def slot_port(layer: str, end: End) -> str:
    """The optional input of a slot: down [r, in, *kernel] and up [out, r, *ones], of a linear layer both transposed."""
    return f"lora_{end}.{layer}"


def slot_port_shape(layer: str, end: End, shape: tuple[int, ...]) -> tuple[int | str, ...]:
    """The shape of that input for a weight's shape. Each layer's rank has a name of its own: they may differ."""
    rank, (out, channels, *kernel) = f"rank.{layer}", shape
    if kernel:
        return (rank, channels, *kernel) if end == "down" else (out, rank, *[1] * len(kernel))
    return (channels, rank) if end == "down" else (rank, out)
