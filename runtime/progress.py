"""Progress is one callable, given by the caller, so that the library itself never prints.

for done, item in enumerate(items, 1):
    ...
    progress("trajectories", done, len(items))
"""

import logging
from typing import Protocol

AHEAD = logging.getLogger("fewstep.ahead")  # at INFO: how long work will take, before it begins


class Progress(Protocol):
    """Called after each piece of work with the name of the stage, and how much of it is done: 0 <= done <= total."""

    def __call__(self, stage: str, done: int, total: int) -> None: ...


def SILENT(stage: str, done: int, total: int) -> None:
    """The Progress that says nothing: the default everywhere."""


def prefix_stages(progress: Progress, name: str) -> Progress:
    """The Progress that names what a stage belongs to."""
    return lambda stage, done, total: progress(f"{name}: {stage}", done, total)
