"""Which graph is faster, fairly: each contender in its own process, taking turns, compared round by round.

Separate processes, because sessions in one process share an allocator and a thread pool; turns, because a machine's
clock, heat and neighbours drift over seconds; a ratio per round, because drift then cancels.
"""

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.machine import usable_cores
from fewstep.runtime.errors import UserError
from fewstep.runtime.progress import SILENT, Progress

WORKER = Path(__file__).with_name("speed_worker.py")


@dataclass(frozen=True)
class Contender:
    """A graph and what it is fed at each run."""

    name: str
    graph: Path
    feeds: Mapping[str, NDArray[Any]]

    @property
    def batch(self) -> int:
        return max(len(array) for array in self.feeds.values())


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of one run, over all rounds; `ratio` is how many times faster than the first contender, by rounds."""

    name: str
    median: float
    p10: float
    p90: float
    runs: int
    ratio: float
    ratio_low: float  # the slowest round
    ratio_high: float  # the fastest round
    load: float  # seconds to open the graph
    peak_mib: float  # resident memory of its process after the first runs; 0: unknown


class Race(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison: all contenders at one batch size and one number of threads."""

    batch: int  # rows of x in one run; a guided sample takes two
    threads: int
    rounds: int
    timings: tuple[Timing, ...]


def race(
    contenders: Sequence[Contender],
    threads: int = 0,
    rounds: int = 7,
    seconds: float = 0.5,
    progress: Progress = SILENT,
) -> Race:
    """Time the contenders against the first of them. `seconds` is how long each runs in each round.

    `threads` 0 means the cores this process may use. One round more than asked is run, and the first is thrown away.
    """
    threads = threads or usable_cores()
    batches = {contender.batch for contender in contenders}
    if len(batches) != 1:
        raise ValueError("contenders must be fed the same batch")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        children = [stack.enter_context(_Child(c, threads, folder / str(i))) for i, c in enumerate(contenders)]
        times: list[list[list[float]]] = [[] for _ in contenders]  # contender, round, run
        runs = [max(1, round(seconds / max(child.time(3)))) for child in children]
        for turn in range(rounds + 1):
            order = range(len(children)) if turn % 2 else reversed(range(len(children)))
            for index in order:
                times[index].append(children[index].time(runs[index]))
            progress("timing", turn + 1, rounds + 1)
    kept = [contender_times[1:] for contender_times in times]
    timings = tuple(_timing(child, mine, kept[0]) for child, mine in zip(children, kept, strict=True))
    return Race(batches.pop(), threads, rounds, timings)


class _Child:
    """A running worker process; ends with the block it was opened in."""

    def __init__(self, contender: Contender, threads: int, folder: Path) -> None:
        self.name = contender.name
        folder.mkdir()
        np.savez(folder / "feeds.npz", allow_pickle=False, **contender.feeds)
        self.errors = (folder / "stderr").open("w+")  # a file, not a pipe: nobody reads it while the child runs
        command = [sys.executable, str(WORKER), str(contender.graph), str(folder / "feeds.npz"), str(threads)]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self.errors, text=True)

    def __enter__(self) -> "_Child":
        try:
            self.ready = self._answer()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.process.kill()
        self.process.communicate()
        self.errors.close()

    def time(self, runs: int) -> list[float]:
        """Seconds of each of `runs` runs."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it died: `_answer` says so
            self.process.stdin.write(f"{runs}\n")
            self.process.stdin.flush()
        seconds: list[float] = self._answer()
        return seconds

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            lines = self.errors.read().strip().splitlines()
            reason = lines[-1] if lines else f"its process ended with {self.process.wait()}"
            raise UserError(f"timing {self.name} failed: {reason}", "run it alone to see more: fewstep run BUNDLE")
        return json.loads(line)


def _timing(child: _Child, mine: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Timing:
    seconds = [value for turn in mine for value in turn]
    ratios = [median(theirs) / median(ours) for ours, theirs in zip(mine, first, strict=True)]
    p10, p90 = np.percentile(seconds, [10, 90])
    return Timing(
        name=child.name,
        median=median(seconds),
        p10=float(p10),
        p90=float(p90),
        runs=len(seconds),
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        load=child.ready["load"],
        peak_mib=child.ready["peak_mib"],
    )
