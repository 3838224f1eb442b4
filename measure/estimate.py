"""Estimates of the time that sampling takes, before it starts.

Other programs delay calls that are longer than a time slice of the system, and few of the shorter ones. So one short
call says little about long work on a busy machine, and calls are repeated over many time slices.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain, islice
from time import perf_counter, thread_time

from fewstep.graph.resource_needs import format_duration
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import PAIRED, SeedBatch
from fewstep.plans.any_plan import AnyPlan
from fewstep.runtime.machine.cpu import default_threads, usable_threads
from fewstep.runtime.progress import ESTIMATES
from fewstep.runtime.sampling.execute import StepState
from fewstep.runtime.sampling.sampler import Sampler

LEAST_ANNOUNCED = 20.0  # seconds from which work announces its duration
LEAST_REPEATED = 5.0  # seconds; for at least this much work, the timed calls are repeated
MOST_BATCHED = 1.0  # seconds of two evaluations of a batch
TIMED = 0.2  # seconds of repeated calls, and of processor time to measure a load: many time slices of a system
WORK = bytes(2**18)  # for less than a millisecond
BUSY = 1.3  # the load at which a machine counts as busy


@dataclass(frozen=True)
class Estimate:
    """The estimated duration of some work, at the current speed of this machine.

    evaluations: the maximum number of evaluations, each of a single sample with all branches of guidance.
    sampling: the seconds of these evaluations.
    timing: the maximum seconds of all turns in which contenders are timed.
    preparation: the seconds in which activations are recorded, weights are rounded, and a large network is loaded.
    """

    evaluations: int
    sampling: float
    timing: float = 0.0
    preparation: float = 0.0

    @property
    def seconds(self) -> float:
        return self.sampling + self.timing + self.preparation

    def describe_load(self) -> str:
        """Return a clause on the duration on an idle machine, such as " at the present load, and 20 seconds on an idle
        machine"; "" for less than LEAST_ANNOUNCED, and if this machine is idle. Turns of timing take as long there.
        """
        if self.seconds < LEAST_ANNOUNCED or (load := measure_load()) < BUSY:
            return ""
        idle = format_duration((self.sampling + self.preparation) / load + self.timing)
        return "" if idle == format_duration(self.seconds) else f" at the present load, and {idle} on an idle machine"

    def announce(self) -> None:
        """Log one line to ESTIMATES if the work takes LEAST_ANNOUNCED or longer."""
        if self.seconds >= LEAST_ANNOUNCED:
            others = {"timing": self.timing, "recording activations and rounding weights": self.preparation}
            ESTIMATES.info(
                "this takes up to %s%s: %d evaluations of one sample%s",
                format_duration(self.seconds),
                self.describe_load(),
                self.evaluations,
                "".join(f", and {format_duration(each)} of {what}" for what, each in others.items() if each),
            )


def measure_load(threads: int = 0) -> float:
    """Measure the wall time of busy loops in as many threads as an engine has (0: by default), as a multiple of their
    processor time: 1 on an idle machine, and about the number of programs that share a core on a busy one. One loop
    would find the core that another program leaves idle, and threads of an engine wait for the slowest of them. Threads
    beyond those that this process may run at once would delay each other, and are left out."""
    count = min(threads or default_threads(), usable_threads())
    with ThreadPoolExecutor(count) as pool:
        return max(1.0, *pool.map(_time_loop, range(count)))


def _time_loop(_: int) -> float:
    """Return the wall time of a loop as a multiple of its processor time. Its work lets other threads run."""
    wall, processor, used = perf_counter(), thread_time(), 0.0
    while used < TIMED:
        sha256(WORK)
        used = thread_time() - processor
    return (perf_counter() - wall) / used


def seconds_per_evaluation(
    sampler: Sampler,
    plan: AnyPlan,
    records: ConditionRecords | None = None,
    seeds: range = PAIRED[:1],
    count: int = 0,
    batch: int = 1,
) -> float:
    """Measure the seconds per evaluation and sample at the present load of the machine, with all branches, in a batch
    of these seeds, averaged over the plan. If `count` evaluations take long, the mean over TIMED seconds is returned.

    batch: the samples that the work runs at once. They are timed together if that is quick: a small network takes
        several times as long for samples one by one.
    """
    seconds = [_time_evaluation(sampler, plan, records, seeds)]
    if count * seconds[0] >= LEAST_REPEATED and batch > 1 and 2 * batch * seconds[0] <= MOST_BATCHED:
        seeds = range(seeds[0], seeds[0] + batch)
        seconds = [_time_evaluation(sampler, plan, records, seeds)]
    end = perf_counter() + TIMED
    while count * seconds[0] >= LEAST_REPEATED and perf_counter() < end:
        seconds.append(_time_evaluation(sampler, plan, records, seeds))
    return sum(seconds) / len(seconds)


def _time_evaluation(sampler: Sampler, plan: AnyPlan, records: ConditionRecords | None, seeds: range) -> float:
    """Measure the seconds per evaluation and sample once.

    Steps run until each network has run two of them. The second is timed, since the first also allocates memory. A
    network with a single step is timed at that step. A plan with a single step runs twice. The time of the conditioner
    and the prologue, which run once for each sample, is spread over its steps.
    """
    batch = next(SeedBatch.split_by_size(sampler.bundle.manifest, seeds, records, len(seeds)))
    sampler = batch.at_size(sampler)
    repeats = 2 if len(plan.steps) == 1 else 1
    runs = [step.network for step in plan.steps] * repeats
    last = max(min(runs.index(name) + 1, len(runs) - 1) for name in set(runs))

    def begin() -> Iterator[StepState]:
        return sampler.steps(plan, batch.seeds, batch.conditions, plan.guidance)

    begin()  # which opens the graphs
    sampler.forget()
    start = perf_counter()
    begun = [begin()]
    setup = perf_counter() - start
    states = chain(*begun, *(begin() for _ in range(repeats - 1)))
    seconds, start = dict[str, float](), perf_counter()
    for state in islice(states, last + 1):
        seconds[state.step.network], start = perf_counter() - start, perf_counter()
    evaluations = sum(seconds[network] for network in runs) / len(runs)
    return (evaluations + setup / len(plan.steps)) / len(batch.seeds)
