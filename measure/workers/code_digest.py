"""The code and the arithmetic that the results of workers, counts and measurements follow from."""

from importlib import import_module

import onnxruntime

from fewstep.runtime.machine.code_digest import code_of
from fewstep.runtime.machine.cpu import this_cpu

# By name: a digest reads the sources of rooms above this one, and runs nothing of them.
ROOMS = ("calibration", "graph", "measure", "plans", "runtime")
PACKAGES = tuple(import_module(f"fewstep.{room}") for room in ROOMS)


def code() -> bytes:
    """A digest of fewstep's version and of all Python sources of PACKAGES."""
    return code_of(PACKAGES)


def arithmetic() -> tuple[object, ...]:
    """The causes of the order of onnxruntime's sums, other than threads: its version, and the CPU's instructions."""
    cpu = this_cpu()
    return onnxruntime.__version__, cpu.name, cpu.int8_instructions, cpu.has_avx512
