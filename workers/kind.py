"""The kind of a worker: all that the bits of its results follow from, but its order and items."""

from dataclasses import dataclass, fields
from functools import cache

import onnxruntime

from fewstep.machine.cpu import this_cpu
from fewstep.workers.code_digest import code


@dataclass(frozen=True)
class Kind:
    """fewstep's code, onnxruntime, and the instructions that it may choose. The number of cores is no part: an order
    has its own number of threads."""

    fewstep: str
    onnxruntime: str
    processor: str
    int8_instructions: tuple[str, ...]
    has_avx512: bool

    def difference(self, other: "Kind") -> str:
        """The first difference from another kind, as "NAME here, OTHER there"."""
        for each in fields(self):
            ours, theirs = getattr(self, each.name), getattr(other, each.name)
            if ours != theirs:
                return f"{each.name.replace('_', ' ')} {_said(ours)} here, {_said(theirs)} there"
        return "none"


@cache
def this_kind() -> Kind:
    """The kind of this process."""
    cpu = this_cpu()
    return Kind(code().hex()[:12], onnxruntime.__version__, cpu.name, cpu.int8_instructions, cpu.has_avx512)


def _said(value: object) -> str:
    return " ".join(value) or "none" if isinstance(value, tuple) else str(value)
