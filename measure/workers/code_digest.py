"""The code and the arithmetic that the results of workers, counts and measurements follow from."""

from importlib import import_module

import onnxruntime

from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.machine.cpu import this_cpu

# By name: a digest reads the sources of packages above this one, and runs nothing of them.
PACKAGES = tuple(
    import_module(f"fewstep.{name}") for name in ("calibration", "fitting", "graph", "measure", "plans", "runtime")
)


def code_digest() -> bytes:
    """A digest of fewstep's version and of all Python sources of PACKAGES."""
    return digest_code(PACKAGES)


def arithmetic_facts() -> tuple[object, ...]:
    """The causes of the order of onnxruntime's sums, other than threads: its version, and the CPU's instructions."""
    cpu = this_cpu()
    return onnxruntime.__version__, cpu.name, cpu.int8_instructions, cpu.has_avx512
