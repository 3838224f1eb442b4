"""Memory and disk space that a verb takes, told and checked before it begins."""

import logging
from dataclasses import dataclass
from pathlib import Path

from fewstep.graph.commit import Writer
from fewstep.machine.memory import this_space

LOG = logging.getLogger("fewstep")
GB = 10**9


@dataclass(frozen=True)
class Needs:
    """Bytes of memory, estimated; bytes on disk, and in how many files."""

    memory: int
    disk: int
    files: int

    def said(self, folder: Path) -> str:
        """One line, beside what is free."""
        space = this_space(folder, folder)
        free = "" if space.memory_free is None else f" ({_gb(space.memory_free)} free)"
        return (
            f"needs about {_gb(self.memory)} of memory{free}, and {_gb(self.disk)} on disk "
            f"({_gb(space.disk_free)} free) for {self.files} files"
        )


def check_needs(needs: Needs, writer: Writer) -> None:
    """UserError where the disk lacks the room. Memory is an estimate, and the system may swap: a warning."""
    writer.reserve(needs.disk)
    free = this_space(writer.bundle, writer.bundle).memory_free
    if free is not None and needs.memory > free:
        LOG.warning("this takes about %s of memory, and %s are free", _gb(needs.memory), _gb(free))


def _gb(size: int) -> str:
    return f"{size / GB:.1f} GB" if size >= GB / 10 else f"{size / 10**6:.1f} MB"
