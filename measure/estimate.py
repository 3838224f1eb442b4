"""Estimates of the time that sampling takes, before it starts."""

from dataclasses import dataclass
from itertools import chain, islice
from time import perf_counter

from fewstep.graph.resource_needs import format_duration
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import PAIRED, held_out_conditions
from fewstep.plans.any_plan import AnyPlan
from fewstep.runtime.progress import ESTIMATES
from fewstep.runtime.sampling.sampler import Sampler

LEAST_ANNOUNCED = 20.0  # seconds from which work announces its duration


@dataclass(frozen=True)
class Estimate:
    """The estimated duration of some work, at the current speed of this machine.

    evaluations: the maximum number of evaluations, each of a single sample with all branches of guidance.
    sampling: the seconds of these evaluations.
    timing: the maximum seconds of all turns in which contenders are timed.
    preparation: the seconds in which a large network is loaded, and its weights are rounded.
    """

    evaluations: int
    sampling: float
    timing: float = 0.0
    preparation: float = 0.0

    @property
    def seconds(self) -> float:
        return self.sampling + self.timing + self.preparation

    def announce(self) -> None:
        """Log one line to ESTIMATES if the work takes LEAST_ANNOUNCED or longer."""
        if self.seconds >= LEAST_ANNOUNCED:
            others = {"timing": self.timing, "opening the network and rounding its weights": self.preparation}
            ESTIMATES.info(
                "this takes up to %s: %d evaluations of one sample%s",
                format_duration(self.seconds),
                self.evaluations,
                "".join(f", and {format_duration(each)} of {what}" for what, each in others.items() if each),
            )


def seconds_per_evaluation(
    sampler: Sampler, plan: AnyPlan, records: ConditionRecords | None = None, seeds: range = PAIRED[:1]
) -> float:
    """Measure the seconds per evaluation and sample, with all branches, in a batch of these seeds, averaged over the
    plan.

    Steps run until each network has run two of them. The second is timed, since the first also allocates memory. A
    network with a single step is timed at that step. A plan with a single step runs twice.
    """
    conditions = held_out_conditions(sampler.bundle.manifest, seeds, records)
    repeats = 2 if len(plan.steps) == 1 else 1
    runs = [step.network for step in plan.steps] * repeats
    last = max(min(runs.index(name) + 1, len(runs) - 1) for name in set(runs))
    states = chain(*(sampler.steps(plan, seeds, conditions, plan.guidance) for _ in range(repeats)))  # all are begun
    seconds, start = dict[str, float](), perf_counter()
    for state in islice(states, last + 1):
        seconds[state.step.network], start = perf_counter() - start, perf_counter()
    return sum(seconds[network] for network in runs) / len(runs) / len(seeds)
