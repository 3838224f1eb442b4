"""Fair races of graphs: each contender in its own process, taking turns, compared round by round.

A ratio per round, because the drift of a machine then cancels.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.measure.speed import worker
from fewstep.measure.speed.turns import TimedProcess
from fewstep.measure.speed.worker import Opener
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.runtime.backends.checks import path_text
from fewstep.runtime.machine.cpu import usable_cores
from fewstep.runtime.machine.turns import Rounds, take_turns
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")
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
class TimedContender:
    """A contender and its feeds at each run: a graph that onnxruntime opens, or a body on another backend."""

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
    kinds: dict[str, float] = {}  # shares of a run by kind of operation (`profile.py`); empty: not known


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
    contenders: Sequence[TimedContender],
    threads: int = 0,
    rounds: int = 7,
    seconds: float = 0.5,
    progress: Progress = SILENT,
    spinning: bool = True,
    profiled: bool = False,
) -> Race:
    """Time the contenders against the first of them. `seconds` is how long each runs in each round. `profiled`: with
    shares of a run by kind of operation, for which each runs some ten times more.

    `threads` 0 means the cores this process may use. Threads spin inside a call at most; without `spinning` not even
    there.
    """
    threads = threads or usable_cores()
    batches = {contender.batch for contender in contenders}
    stage = ", ".join(f"{size} {'row' if size == 1 else 'rows'}" for size in sorted(batches))
    if len(batches) != 1:
        raise ValueError("contenders must be fed the same batch")
    with ExitStack() as stack:
        processes = [
            stack.enter_context(TimedProcess(each.name, _opener(each, threads, spinning))) for each in contenders
        ]
        for each in processes:
            each.turn(0.0)
        peaks = [each.peak_mib() for each in processes]

        def until(done: Rounds[list[float]]) -> bool:
            progress(f"timing {stage}", len(done), rounds)
            return len(done) >= rounds

        times = list(zip(*take_turns([partial(each.walls, seconds) for each in processes], until), strict=True))
        kinds = [_kinds(each) if profiled else {} for each in processes]
    each_of = zip(processes, peaks, times, kinds, strict=True)
    timings = tuple(_timing(process, peak, mine, times[0], shares) for process, peak, mine, shares in each_of)
    return Race(batches.pop(), threads, rounds, timings)


def _kinds(process: TimedProcess) -> dict[str, float]:
    """Shares of a run; none where the profile fails, as without room for its file: times are kept."""
    try:
        return dict(process.result(worker.KINDS))
    except UserError as error:
        LOG.warning("where the time of %s goes is not known: %s", process.name, error.what)
        return {}


def _opener(contender: TimedContender, threads: int, spinning: bool) -> Opener:
    graph, feeds = contender.graph, dict(contender.feeds)
    if isinstance(graph, Path):
        return partial(worker.open_graph, path_text(graph), threads, spinning, feeds)
    return partial(worker.open_body, graph.backend, threads, graph.bundle, graph.network, graph.body, feeds)


def _timing(
    process: TimedProcess,
    peak: float,
    mine: Sequence[Sequence[float]],
    first: Sequence[Sequence[float]],
    kinds: dict[str, float],
) -> Timing:
    seconds = [value for turn in mine for value in turn]
    ratios = [median(theirs) / median(ours) for ours, theirs in zip(mine, first, strict=True)]
    p10, p90, p99 = np.percentile(seconds, [10, 90, 99])
    return Timing(
        name=process.name,
        median=median(seconds),
        p10=float(p10),
        p90=float(p90),
        p99=float(p99),
        runs=len(seconds),
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        load=process.load,
        peak_mib=peak,
        kinds=kinds,
    )
