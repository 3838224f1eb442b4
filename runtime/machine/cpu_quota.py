"""The limit that control groups (of a container, or of a systemd service) set to this process's CPU time."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

CGROUPS = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")


def cpu_quota() -> float | None:
    """Return the number of cores that this process may use on average; None without a limit.

    It is the smallest limit of the process's control group and of the groups that contain it, in versions 1 and 2 of
    control groups.
    """
    limits = (_read_limit(folder) for folder in _group_folders())
    return min((limit for limit in limits if limit is not None), default=None)


def _group_folders() -> Iterator[Path]:
    """Yield the folders of the groups that may limit this process. Inside a container, some of them may not exist."""
    for line in _read(MEMBERSHIP).splitlines():
        _, _, entry = line.partition(":")
        controllers, _, group = entry.partition(":")
        if not controllers:  # version 2
            root = CGROUPS
        elif "cpu" in controllers.split(","):
            root = CGROUPS / "cpu"
        else:
            continue
        path = PurePosixPath(group.lstrip("/"))
        yield from (root / parent for parent in (path, *path.parents))


def _read_limit(folder: Path) -> float | None:
    quota, _, period = _read(folder / "cpu.max").strip().partition(" ")  # "QUOTA PERIOD", in microseconds
    if not quota:  # version 1
        quota, period = (_read(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period"))
    is_limit = quota.isdecimal() and period.isdecimal() and int(quota) and int(period)  # others: "max", "-1"
    return int(quota) / int(period) if is_limit else None


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""
