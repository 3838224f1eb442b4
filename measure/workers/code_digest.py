"""Digests of the code and the arithmetic that determine the results of workers, counts and measurements."""

from importlib import import_module

import onnxruntime

from fewstep.runtime.machine.code_digest import digest_code
from fewstep.runtime.machine.cpu import this_cpu

# Imported by name: the digest reads the sources of packages in higher layers, but runs nothing of them.
PACKAGES = tuple(
    import_module(f"fewstep.{name}") for name in ("calibration", "fitting", "graph", "measure", "plans", "runtime")
)


def code_digest() -> bytes:
    """Return a digest of fewstep's version and of all Python sources of PACKAGES."""
    return digest_code(PACKAGES)


def arithmetic_facts() -> tuple[object, ...]:
    """Return what determines the order in which onnxruntime sums, besides the number of threads: its version, and the
    CPU's instructions."""
    cpu = this_cpu()
    return onnxruntime.__version__, cpu.name, cpu.int8_instructions, cpu.has_avx512
