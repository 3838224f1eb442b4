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

from fewstep.machine.cpu import usable_cores
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends.checks import path_text
from fewstep.runtime.progress import SILENT, Progress

WORKER = Path(__file__).with_name("worker.py")
LONGEST_TURN = 3600.0  # seconds
LARGEST_BATCH = 4096  # samples in one timed call


@dataclass(frozen=True)
class OnBackend:
    """A body of a bundle as a named backend loads it, where the contender is not onnxruntime on the CPU."""

    backend: str
    bundle: Path
    body: str
    network: str = DENOISER


@dataclass(frozen=True)
class Contender:
    """What runs, and what it is fed at each run: a graph that onnxruntime opens, or a body on another backend."""

    name: str
    graph: Path | OnBackend
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
    p99: float
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


def check_batches(batches: Sequence[int]) -> None:
    """UserError for sizes of a timed call that are none, or that no memory holds."""
    if not batches or not all(1 <= size <= LARGEST_BATCH for size in batches):
        listed = ",".join(map(str, batches)) or "empty"
        raise UserError(f"--batches is {listed}", f"give numbers from 1 to {LARGEST_BATCH}, as --batches 1,8")


def race(
    contenders: Sequence[Contender],
    threads: int = 0,
    rounds: int = 7,
    seconds: float = 0.5,
    progress: Progress = SILENT,
    spinning: bool = True,
) -> Race:
    """Time the contenders against the first of them. `seconds` is how long each runs in each round.

    `threads` 0 means the cores this process may use. One round more than asked is run, and the first is thrown away.
    Only one contender runs at a time, and its threads spin inside a call at most; without `spinning` not even there.
    """
    threads = threads or usable_cores()
    batches = {contender.batch for contender in contenders}
    stage = ", ".join(f"{size} {'row' if size == 1 else 'rows'}" for size in sorted(batches))
    if len(batches) != 1:
        raise ValueError("contenders must be fed the same batch")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        children = [
            stack.enter_context(_Child(c, threads, spinning, folder / str(i))) for i, c in enumerate(contenders)
        ]
        times: list[list[list[float]]] = [[] for _ in contenders]  # contender, round, run
        runs = [max(1, round(seconds / max(child.time(3)))) for child in children]
        for turn in range(rounds + 1):
            order = range(len(children)) if turn % 2 else reversed(range(len(children)))
            for index in order:
                times[index].append(children[index].time(runs[index]))
            progress(f"timing {stage}", turn + 1, rounds + 1)
    kept = [contender_times[1:] for contender_times in times]
    timings = tuple(_timing(child, mine, kept[0]) for child, mine in zip(children, kept, strict=True))
    return Race(batches.pop(), threads, rounds, timings)


class _Child:
    """A running worker process; ends with the block it was opened in."""

    def __init__(self, contender: Contender, threads: int, spinning: bool, folder: Path) -> None:
        self.name = contender.name
        folder.mkdir()
        arrays: dict[str, Any] = dict(contender.feeds)  # numpy 1.26 would take a flag beside them for an array
        np.savez(folder / "feeds.npz", **arrays)
        self.errors = (folder / "stderr").open("w+")  # a file, not a pipe: nobody reads it while the child runs
        request = {"threads": threads, "spinning": spinning, **_what(contender.graph)}
        command = [sys.executable, str(WORKER), json.dumps(request), str(folder / "feeds.npz")]
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


def _what(graph: Path | OnBackend) -> dict[str, str]:
    """What a worker is to open."""
    if isinstance(graph, Path):
        return {"graph": path_text(graph)}
    return {"backend": graph.backend, "bundle": str(graph.bundle), "body": graph.body, "network": graph.network}


def _timing(child: _Child, mine: Sequence[Sequence[float]], first: Sequence[Sequence[float]]) -> Timing:
    seconds = [value for turn in mine for value in turn]
    ratios = [median(theirs) / median(ours) for ours, theirs in zip(mine, first, strict=True)]
    p10, p90, p99 = np.percentile(seconds, [10, 90, 99])
    return Timing(
        name=child.name,
        median=median(seconds),
        p10=float(p10),
        p90=float(p90),
        p99=float(p99),
        runs=len(seconds),
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        load=child.ready["load"],
        peak_mib=child.ready["peak_mib"],
    )
