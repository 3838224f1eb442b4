"""The processor: its name, the cores this process may use, and the instructions that determine int8 speed."""

import os
import platform
import re
from pathlib import Path

import msgspec

INT8_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")  # asimddp is Arm's dot product
EXACT = frozenset(("avx512_vnni", "avx_vnni"))  # x86 instructions that sum 8-bit products without saturating
CPUINFO = Path("/proc/cpuinfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")


class Cpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A processor. `cores` is the number of cores on which this process may run. `quota` is the number of cores that a
    container may use on average; None without a limit."""

    name: str
    architecture: str
    cores: int
    quota: float | None
    int8_instructions: tuple[str, ...]
    has_avx512: bool


def this_cpu() -> Cpu:
    """Return the name, cores and int8 instructions of this machine's processor."""
    text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    flags = _field(text, "flags|Features").split()
    return Cpu(
        name=_field(text, "model name") or platform.processor() or platform.machine(),
        architecture=platform.machine(),
        cores=usable_cores(),
        quota=cpu_quota(QUOTA.read_text() if QUOTA.exists() else ""),
        int8_instructions=tuple(flag for flag in INT8_FLAGS if flag in flags),
        has_avx512="avx512f" in flags,
    )


def usable_cores() -> int:
    """Return the number of cores that this process may run on; an affinity may exclude some."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def physical_cores() -> int:
    """Return the number of physical cores of the machine; 0 if the system does not report it."""
    text = CPUINFO.read_text(errors="replace") if CPUINFO.exists() else ""
    places = ((_field(part, "physical id"), _field(part, "core id")) for part in text.split("\n\n"))
    return len({place for place in places if place[1]})


def cpu_quota(text: str) -> float | None:
    """Return the cores of a control group's cpu.max, "QUOTA PERIOD" in microseconds; None without a limit."""
    quota, _, period = text.strip().partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _field(cpuinfo: str, names: str) -> str:
    match = re.search(rf"^(?:{names})\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match.group(1).strip() if match else ""
