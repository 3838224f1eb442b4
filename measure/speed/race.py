"""Time bodies fairly: each contender runs in its own process, contenders take turns, and they are compared round by
round.

Ratios are computed per round, so that slow changes of the machine's speed cancel. On a busy machine they are those of
the processor time: other programs delay a long call by many time slices, above all one whose threads wait for each
other, and a short one by none. With a contender on another device they are those of wall times, since its work takes
little processor time.
"""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median

import msgspec
import numpy as np

from fewstep.measure.estimate import BUSY, measure_load
from fewstep.measure.speed import contender_process
from fewstep.measure.speed.contender import TimedContender
from fewstep.measure.speed.contender_process import Seconds, processor_time
from fewstep.measure.speed.timed_process import TimedProcess
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.checks import path_text
from fewstep.runtime.backends.onnxruntime import WIDE_SUMS
from fewstep.runtime.machine.cpu import default_threads
from fewstep.runtime.machine.turns import Rounds, take_turns
from fewstep.runtime.progress import SILENT, Progress

LOG = logging.getLogger("fewstep")
LONGEST_TURN = 3600.0  # seconds
LARGEST_BATCH = 4096  # samples in one timed call


@dataclass(frozen=True)
class Turns:
    """How contenders are timed in turns. Raises UserError for invalid values.

    batches: numbers of samples per call; all contenders are timed for each. rounds: the number of turns of each
        contender. seconds: the duration of a turn. threads: threads per call; 0 for `default_threads`, as in a
        deployment. spinning: whether waiting threads spin inside a call; they never spin between calls.
    """

    batches: tuple[int, ...] = (1, 8)
    rounds: int = 7
    seconds: float = 0.5
    threads: int = 0
    spinning: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1 or not 0 < self.seconds <= LONGEST_TURN:
            what = f"{self.rounds} rounds with turns of {self.seconds:g} s cannot be timed"
            raise UserError(what, f"give at least 1 round, and more than 0 and at most {LONGEST_TURN:g} s per turn")
        if not self.batches or not all(1 <= size <= LARGEST_BATCH for size in self.batches):
            listed = ",".join(map(str, self.batches)) or "empty"
            raise UserError(f"--batches is {listed}", f"give numbers from 1 to {LARGEST_BATCH}, as --batches 1,8")


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Seconds of a mean step, over the calls of all rounds. If the race is `by_processor`, they are processor times, of
    which each round gives one: the mean over its calls."""

    name: str
    median: float
    p10: float
    p90: float
    p99: float
    runs: int  # number of timed calls
    ratio: float  # how many times as fast as the first contender: the median over rounds
    ratio_low: float  # the slowest round
    ratio_high: float  # the fastest round
    load: float  # seconds to open the graphs
    peak_mib: float  # resident memory of its process after the first runs; 0: unknown
    kinds: dict[str, float] = {}  # shares of a run by operation type (`profile.py`); empty: unknown


class Race(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One comparison: all contenders at one batch size and one number of threads.

    load: the wall time of a loop relative to its processor time. by_processor: whether ratios are those of processor
        time, as from a load of `estimate.BUSY` on, if all contenders run on the CPU.
    """

    batch: int  # rows of x in one run; a guided sample takes two
    threads: int
    rounds: int
    timings: tuple[Timing, ...]
    load: float = 1.0
    by_processor: bool = False

    @property
    def measure(self) -> str:
        """What its ratios compare on a busy machine, as a clause; "" on an idle one."""
        if self.load < BUSY:
            return ""
        delay = f"other programs made work take {self.load:.1f} times as long"
        return f" in processor time, since {delay}," if self.by_processor else f", while {delay},"


def describe_measure(races: Sequence[Race]) -> str:
    """Return the clause on what the ratios of races compare (`Race.measure`), with the batches of those on a busy
    machine if the machine was idle for others; "" if it was idle for all."""
    busy = [race for race in races if race.load >= BUSY]
    if not busy:
        return ""
    batches = "" if len(busy) == len(races) else f", of batch {' and '.join(str(race.batch) for race in busy)}"
    return batches + max(busy, key=lambda race: race.load).measure


def describe_times(races: Sequence[Race]) -> str:
    """Return what the seconds of races are: "time" if the machine was idle for all."""
    busy = [race for race in races if race.load >= BUSY]
    if not busy:
        return "time"
    if not any(race.by_processor for race in busy):
        return "wall time, which these programs lengthen"
    return "processor time" if len(busy) == len(races) else "time, which is processor time where the speedup is"


def run_race(
    contenders: Sequence[TimedContender], turns: Turns = Turns(), progress: Progress = SILENT, profiled: bool = False
) -> Race:
    """Time a mean step of each contender relative to the first one. If plans run several networks, timings of a mean
    step of each network follow.

    profiled: whether to return the fraction of time by operation type too, which takes about ten more runs of each
        contender.
    """
    threads = turns.threads or default_threads()
    batches = {contender.batch for contender in contenders}
    if len(batches) != 1:
        raise ValueError("contenders must be fed the same batch")
    batch = batches.pop()
    names = [*contenders[0].steps]  # "" for all steps, then the name of each network for its steps
    load = measure_load(threads)
    calls = [(place, name) for name in (names if len(names) > 2 else [""]) for place in range(len(contenders))]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(TimedProcess(contender.name, _make_opener(contender, threads, turns.spinning)))
            for contender in contenders
        ]
        for process in processes:
            process.run_turn(0.0)  # a single call, to measure its memory
        peaks = [process.peak_mib() for process in processes]

        def is_done(done: Rounds[list[Seconds]]) -> bool:
            progress(f"timing {batch} {'row' if batch == 1 else 'rows'}", len(done), turns.rounds)
            return len(done) >= turns.rounds

        timed = [partial(processes[place].run_turn, turns.seconds, name) for place, name in calls]
        taken = zip(*take_turns(timed, is_done), strict=True)  # seconds of each call: by rounds, then by repetitions
        kinds = [_kind_shares(process) if profiled else {} for process in processes]
    steps = {
        (place, name): [[(wall / count, used / count) for wall, used in turn] for turn in rounds]
        for (place, name), rounds in zip(calls, taken, strict=True)
        for count in [contenders[place].steps[name]]
    }
    load = max(load, measure_load(threads))
    by_processor = load >= BUSY and all(contender.is_on_cpu for contender in contenders)
    timings = []
    for place, name in calls:
        timing = _make_timing(processes[place], name, steps[place, name], steps[0, name], by_processor)
        timings.append(msgspec.structs.replace(timing, peak_mib=peaks[place], kinds=kinds[place].get(name, {})))
    return Race(batch, threads, turns.rounds, tuple(timings), load, by_processor)


def _kind_shares(process: TimedProcess) -> dict[str, dict[str, float]]:
    """Return the fractions of each call's time by operation type, the largest first. Empty if the profile fails, e.g.
    without disk space for its file; the measured times are kept."""
    try:
        by_call: Mapping[str, Mapping[str, float]] = process.run_call(contender_process.PROFILES)
    except UserError as error:
        LOG.warning("the time of %s by operation type is unknown: %s", process.name, error.what)
        return {}
    shares = {}
    for call, seconds in by_call.items():
        total = sum(seconds.values()) or 1.0
        shares[call] = {kind: seconds[kind] / total for kind in sorted(seconds, key=seconds.__getitem__, reverse=True)}
    return shares


def _make_opener(contender: TimedContender, threads: int, spinning: bool) -> contender_process.Opener:
    """Return the function that opens the calls of a contender's graphs in its process."""
    graphs = []
    for each in contender.graphs:
        graph, feeds = each.graph, dict(each.feeds)
        if isinstance(graph, Path):
            entries = {WIDE_SUMS: str(int(each.wide_sums))}
            opener = partial(contender_process.open_graph, path_text(graph), threads, spinning, entries, feeds)
        else:
            opener = partial(
                contender_process.open_body, graph.backend, threads, graph.bundle, each.network, graph.body, feeds
            )
        graphs.append((each.network, each.steps, opener))
    return partial(contender_process.open_steps, graphs)


def _wall_time(calls: Sequence[Seconds]) -> float:
    return median(wall for wall, _ in calls)


def _make_timing(
    process: TimedProcess,
    call: str,
    rounds: Sequence[Sequence[Seconds]],
    first: Sequence[Sequence[Seconds]],
    by_processor: bool,
) -> Timing:
    """Return the timing of a call from the seconds of its steps in each round; `first` are the first contender's.
    by_processor: see `Race`."""
    walls = [wall for turn in rounds for wall, _ in turn]
    seconds = [processor_time(turn) for turn in rounds] if by_processor else walls
    time_of = processor_time if by_processor else _wall_time
    ratios = [time_of(other) / time_of(turn) for turn, other in zip(rounds, first, strict=True)]
    p10, p90, p99 = np.percentile(seconds, [10, 90, 99])
    return Timing(
        name=f"{process.name}, {call}" if call else process.name,
        median=median(seconds),
        p10=float(p10),
        p90=float(p90),
        p99=float(p99),
        runs=len(walls),
        ratio=median(ratios),
        ratio_low=min(ratios),
        ratio_high=max(ratios),
        load=process.load,
        peak_mib=0.0,
    )
