"""Free memory and disk space, and the peak memory of this process."""

import re
import shutil
from pathlib import Path

import msgspec

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
GROUP = Path("/sys/fs/cgroup")


class Space(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Sizes in bytes; None if the system does not report them."""

    memory_total: int | None
    memory_free: int | None
    disk_free: int
    temporary_free: int


def this_space(folder: Path, temporary: Path) -> Space:
    """Return the free memory, and the free disk space in `folder` and in the folder of temporary files.

    If `ulimit -v` limits each process, free memory is at most what this process can still map.
    """
    total, free = parse_meminfo(
        MEMINFO.read_text() if MEMINFO.exists() else "", _read_text("memory.max"), _read_text("memory.current")
    )
    if (limit := _address_limit()) is not None:
        total, free = _apply_limit(total, free, limit, _process_bytes("VmSize") or 0)
    return Space(total, free, shutil.disk_usage(folder).free, shutil.disk_usage(temporary).free)


def resident_bytes() -> int:
    """Return the anonymous resident memory of this process in bytes; 0 if the system does not report it."""
    return _process_bytes("RssAnon") or 0


def parse_meminfo(meminfo: str, limit: str, used: str) -> tuple[int | None, int | None]:
    """Return the bytes of memory (total, free) from the content of /proc/meminfo, or those that a control group allows,
    if they are fewer. None for a value that is missing.

    limit, used: the contents of the control group's files memory.max and memory.current.
    """
    sizes = {name: 1024 * int(kib) for name, kib in re.findall(r"^(\w+):\s+(\d+) kB", meminfo, re.MULTILINE)}
    total, free = sizes.get("MemTotal"), sizes.get("MemAvailable")
    if limit.isdigit() and used.isdigit():
        total, free = _apply_limit(total, free, int(limit), int(used))
    return total, free


def _apply_limit(total: int | None, free: int | None, limit: int, used: int) -> tuple[int, int]:
    """Return (total, free) bytes, or less if a limit allows less."""
    left = max(limit - used, 0)
    return min(limit, total or limit), min(left, left if free is None else free)


def _address_limit() -> int | None:
    """Return the limit on this process's address space in bytes; None without a limit, and on Windows."""
    try:
        import resource
    except ModuleNotFoundError:
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def peak_bytes(status: str | None = None) -> int | None:
    """Return the peak resident memory of this process in bytes, from /proc/self/status; None if it is not reported.

    getrusage is not used, because on Linux its value survives exec, and so starts at that of the parent process.
    """
    return _process_bytes("VmHWM", status)


def held_bytes() -> int | None:
    """Return the resident memory of this process in bytes, with the pages of mapped files; None if it is not
    reported."""
    return _process_bytes("VmRSS")


def _process_bytes(field: str, status: str | None = None) -> int | None:
    """Return a field of /proc/self/status in bytes; None if the system does not report it."""
    text = status if status is not None else STATUS.read_text() if STATUS.exists() else ""
    match = re.search(rf"^{field}:\s+(\d+) kB", text, re.MULTILINE)
    return 1024 * int(match[1]) if match else None


def _read_text(name: str) -> str:
    path = GROUP / name
    return path.read_text().strip() if path.is_file() else ""
