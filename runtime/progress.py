"""Progress reports through a callable that the caller supplies, so that the library itself never prints.

for done, item in enumerate(items, 1):
    ...
    progress("trajectories", done, len(items))
"""

import logging
from typing import Protocol

ESTIMATES = logging.getLogger("fewstep.ahead")  # at INFO: estimates of how long work will take, before it begins


class Progress(Protocol):
    """A callable that receives the stage's name and its progress after each piece of work: 0 <= done <= total."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def SILENT(stage: str, done: int, total: int) -> None:
    """Report nothing: the default everywhere."""


def prefix_stages(progress: Progress, name: str) -> Progress:
    """Return a Progress that prefixes each stage with a name."""
    return lambda stage, done, total: progress(f"{name}: {stage}", done, total)
