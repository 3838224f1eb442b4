"""Progress display: bars on a terminal, a few plain lines elsewhere. Both write to stderr; stdout is for results."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from fewstep.plans.errors import printable
from fewstep.runtime.interrupts import check_interrupted
from fewstep.runtime.progress import SILENT, Progress

if TYPE_CHECKING:
    from rich.progress import TaskID

LINE_SECONDS = 10.0  # between two plain lines of one stage


class Bars:
    """Progress bars on a terminal, one for each stage of the work."""

    def __init__(self) -> None:
        from rich import progress  # not for --help
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        self._bars = progress.Progress(*columns, console=Console(stderr=True), transient=False)
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(printable(stage), total=total)
            self._bars.start()
        self._bars.update(self._tasks[stage], completed=done, total=total)
        if done >= total:
            del self._tasks[stage]  # a stage that starts again gets a new bar

    def close(self) -> None:
        self._bars.stop()


class Lines:
    """Lines for logs: one when a stage ends, and one every LINE_SECONDS while it runs."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._last: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if done >= total or now - self._last.setdefault(stage, now) >= LINE_SECONDS:
            print(f"{printable(stage)}: {done}/{total}", file=self._file, flush=True)
            self._last[stage] = now

    def close(self) -> None:
        self._file.flush()


@contextmanager
def progress_display(quiet: bool = False) -> Iterator[Progress]:
    """Context manager for the progress display that suits stderr. It restores the terminal at the end.

    Each progress call raises KeyboardInterrupt if an earlier interrupt was swallowed.
    """
    if quiet:
        yield _check_progress(SILENT)
        return
    shown = Bars() if sys.stderr.isatty() else Lines(sys.stderr)
    try:
        yield _check_progress(shown)
    finally:
        shown.close()


def _check_progress(progress: Progress) -> Progress:
    def show(stage: str, done: int, total: int) -> None:
        check_interrupted()
        progress(stage, done, total)

    return show
