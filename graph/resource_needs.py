"""Show and check the time, memory and disk space that a verb takes, before it begins."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fewstep.graph.files.commit import Writer
from fewstep.runtime.machine.memory import resident_bytes, this_space

LOG = logging.getLogger("fewstep")
GB = 10**9


@dataclass(frozen=True)
class Needs:
    """The estimated bytes of memory, the bytes on disk, and the number of files."""

    memory: int
    disk: int
    files: int

    def describe(self, folder: Path) -> str:
        """Return one line that states the memory and disk space needed, and what is free."""
        free = memory_free(folder)
        memory = "" if free is None else f" ({_format_gb(free)} free)"
        return (
            f"needs about {_format_gb(self.memory)} of memory{memory}, and {_format_gb(self.disk)} on disk "
            f"({_format_gb(this_space(folder, folder).disk_free)} free) for {self.files} file{'s' * (self.files != 1)}"
        )


def combine_needs(parts: Sequence[Needs]) -> Needs:
    """Return the needs of work done part by part."""
    return Needs(
        max(part.memory for part in parts), sum(part.disk for part in parts), sum(part.files for part in parts)
    )


def check_needs(needs: Needs, writer: Writer) -> None:
    """Raise UserError if the disk has too little room. Too little memory only causes a warning, since the need is an
    estimate, and the system may swap."""
    writer.reserve(needs.disk)
    check_memory(needs, writer.bundle)


def check_memory(needs: Needs, folder: Path) -> None:
    """Warn if less memory is free than needed."""
    free = memory_free(folder)
    if free is not None and needs.memory > free:
        LOG.warning("this takes about %s of memory, and %s are free", _format_gb(needs.memory), _format_gb(free))


def format_duration(seconds: float) -> str:
    """Format an estimate in seconds, minutes or hours, with no more digits than an estimate deserves."""
    if seconds < 90:
        return f"{seconds:.0f} seconds" if seconds >= 1.5 else "a second"
    return f"{seconds / 60:.0f} minutes" if seconds < 90 * 60 else f"{seconds / 3600:.1f} hours"


def memory_free(folder: Path) -> int | None:
    """Return the bytes that this process could use in total: those that are free, and those that it uses already. None
    if the system does not report them."""
    free = this_space(folder, folder).memory_free
    return None if free is None else free + resident_bytes()


def _format_gb(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 10**6:.1f} MB"
