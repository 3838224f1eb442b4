"""What a measurement was made on: processor, cores, versions. No user, no host name, no path."""

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

PACKAGES = ("fewstep", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx")
INT8_FLAGS = ("avx2", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")  # int8 speed hangs on them


class Machine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The processor as its operating system names it, and the cores this process may use."""

    processor: str
    cores: int
    int8_instructions: tuple[str, ...]
    system: str
    versions: dict[str, str]


def this_machine() -> Machine:
    """Look at the machine this runs on."""
    cpuinfo = _cpuinfo()
    return Machine(
        processor=_field(cpuinfo, "model name") or platform.processor() or platform.machine(),
        cores=usable_cores(),
        int8_instructions=tuple(f for f in INT8_FLAGS if f in f"{_field(cpuinfo, 'flags|Features')} ".split()),
        system=f"{platform.system()} {platform.machine()}",
        versions={"python": platform.python_version(), **_installed()},
    )


def usable_cores() -> int:
    """Cores this process may run on: fewer than the machine has, where somebody set an affinity."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _installed() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(errors="replace") if path.exists() else ""


def _field(cpuinfo: str, names: str) -> str:
    match = re.search(rf"^(?:{names})\s*:\s*(.*)$", cpuinfo, re.MULTILINE)
    return match.group(1).strip() if match else ""
