"""The kind of a machine: what the bits of its results follow from, apart from files and threads."""

from dataclasses import dataclass
from functools import cache

import onnxruntime

from fewstep.machine.cpu import this_cpu
from fewstep.workers.code_digest import code


@dataclass(frozen=True)
class Kind:
    """fewstep's code, onnxruntime, and the instructions that it may choose."""

    fewstep: str
    onnxruntime: str
    processor: str
    int8_instructions: tuple[str, ...]
    has_avx512: bool


@cache
def this_kind() -> Kind:
    """The kind of this machine."""
    cpu = this_cpu()
    return Kind(code().hex()[:12], onnxruntime.__version__, cpu.name, cpu.int8_instructions, cpu.has_avx512)
