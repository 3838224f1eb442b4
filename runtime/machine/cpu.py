"""The processor: its name, the cores and threads this process may use, and the instructions that determine int8
speed."""

import os
import platform
import re
from functools import cache
from math import ceil
from pathlib import Path

import msgspec

from fewstep.runtime.machine.cpu_quota import cpu_quota

INT8_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")  # asimddp is Arm's dot product
EXACT = frozenset(("avx512_vnni", "avx_vnni"))  # x86 instructions that sum 8-bit products without saturating
BF16_FLAGS = frozenset(("avx512_bf16", "amx_bf16", "bf16"))  # bf16 is Arm's
X86 = ("x86_64", "AMD64", "i686", "i386")  # the machine names of Linux, macOS and Windows
CPUINFO = Path("/proc/cpuinfo")


class Cpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A processor. `cores` is the number of cores on which this process may run. `quota` is the number of cores that a
    container may use on average; None without a limit."""

    name: str
    architecture: str
    cores: int
    quota: float | None
    int8_instructions: tuple[str, ...]
    has_avx512: bool
    has_bf16: bool = False  # whether it multiplies in bfloat16; otherwise engines emulate that, several times slower


def this_cpu() -> Cpu:
    """Return the name, cores and int8 instructions of this machine's processor."""
    text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    # An emulated process reads the file of its host, whose instructions it does not have.
    flags = _field(text, "flags" if platform.machine() in X86 else "Features").split()
    return Cpu(
        name=_field(text, "model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=usable_cores(),
        quota=cpu_quota(),
        int8_instructions=tuple(flag for flag in INT8_FLAGS if flag in flags),
        has_avx512="avx512f" in flags,
        has_bf16=not BF16_FLAGS.isdisjoint(flags),
    )


def usable_cores() -> int:
    """Return the number of cores that this process may run on; an affinity may exclude some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """Return the number of physical cores on which this process may run; 0 if the system does not report it."""
    cores = _core_of_processor(CPUINFO)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else cores.keys()
    return len({cores[number] for number in allowed if number in cores})


def usable_threads() -> int:
    """Return how many threads of this process can run at once: one per core that it may use (`usable_cores`), and not
    more than its CPU quota, rounded up."""
    quota = cpu_quota()
    return usable_cores() if quota is None else min(usable_cores(), ceil(quota))


def default_threads() -> int:
    """Return the default number of threads of a call: one per physical core that this process may use, and not more
    than its CPU quota, rounded up."""
    return min(physical_cores() or usable_cores(), usable_threads())


def engine_threads(threads: int) -> int:
    """Return the number of threads to request from an engine: `threads`, or `default_threads` if it is 0.

    On systems without affinities this returns 0: only the engine knows the physical cores there.
    """
    return threads or (default_threads() if hasattr(os, "sched_getaffinity") else 0)


@cache
def _core_of_processor(cpuinfo: Path) -> dict[int, tuple[str, str]]:
    """Return the socket and the core of each processor of the system, by its number."""
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    places = {
        _field(part, "processor"): (_field(part, "physical id"), _field(part, "core id")) for part in text.split("\n\n")
    }
    return {int(number): place for number, place in places.items() if number and place[1]}


def _field(cpuinfo: str, names: str) -> str:
    match = re.search(rf"^(?:{names})\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match.group(1).strip() if match else ""
