"""The time that sampling takes, estimated before it begins."""

from dataclasses import dataclass
from itertools import islice
from time import perf_counter

from fewstep.graph.resource_needs import format_duration
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.seeds import PAIRED, held_out_conditions
from fewstep.plans.any_plan import AnyPlan
from fewstep.runtime.progress import AHEAD
from fewstep.runtime.sampling.sampler import Sampler

LEAST_ANNOUNCED = 20.0  # seconds from which work says its time ahead


@dataclass(frozen=True)
class Estimate:
    """The time that work takes at the speed of this moment, before it begins.

    evaluations: of single samples, at most. One has all branches of guidance.
    sampling: seconds of these evaluations.
    timing: the most seconds of turns in which contenders are timed.
    """

    evaluations: int
    sampling: float
    timing: float = 0.0

    @property
    def seconds(self) -> float:
        return self.sampling + self.timing

    def announce(self) -> None:
        """One line on the log AHEAD, where the work takes LEAST_ANNOUNCED or longer."""
        if self.seconds >= LEAST_ANNOUNCED:
            turns = f", and {format_duration(self.timing)} of timing" if self.timing else ""
            AHEAD.info(
                "this takes up to %s: %d evaluations of one sample%s",
                format_duration(self.seconds),
                self.evaluations,
                turns,
            )


def seconds_per_evaluation(
    sampler: Sampler, plan: AnyPlan, records: ConditionRecords | None = None, seeds: range = PAIRED[:1]
) -> float:
    """Seconds of one evaluation of one sample with all branches, in a batch of these seeds: the mean over the plan.

    Each network's latest step is timed once all have had a second, since a first one allocates. Some have only that.
    """
    conditions = held_out_conditions(sampler.bundle.manifest, seeds, records)
    runs = [step.network for step in plan.steps]
    last = max(min(runs.index(name) + 1, len(runs) - 1) for name in set(runs))
    seconds, start = dict[str, float](), perf_counter()
    for state in islice(sampler.steps(plan, seeds, conditions, plan.guidance), last + 1):
        seconds[state.step.network], start = perf_counter() - start, perf_counter()
    return sum(seconds[network] for network in runs) / len(runs) / len(seeds)
