"""The memory, the evaluations and the time of a choice, before it begins."""

from collections.abc import Iterable, Mapping

from fewstep.graph.resource_needs import Needs
from fewstep.measure.cost import sampling_needs
from fewstep.measure.estimate import Estimate, seconds_per_evaluation
from fewstep.measure.sampling import FEW
from fewstep.measure.speed.contender_process import WARM_UP
from fewstep.measure.speed.duel import DUEL_SECONDS
from fewstep.measure.speed.timed_process import TURN_SECONDS
from fewstep.measure.teacher import CHECK_SEEDS
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.deployment_times import ROUNDS
from fewstep.report.choosing.engines import candidate_engines, runnable_bodies


def estimate_needs(judging: DeploymentJudge) -> Needs:
    """Return the memory of float32 and of two engines of the largest body."""
    bundle = judging.bundle
    each = [
        sampling_needs(bundle, (name, name), judging.plan, max(FEW, judging.batch), ())
        for name in runnable_bodies(bundle)
    ]
    return max(each, key=lambda need: need.memory)


def estimate(judging: DeploymentJudge, plans: Mapping[str, Mapping[str, Plan]], threads: int) -> Estimate:
    """Estimate the time of a choice at float32's speed, if nothing is cached."""
    each, count = (
        seconds_per_evaluation(judging.reference, judging.plan_to_time(), judging.records),
        count_evaluations(judging, plans),
    )
    return Estimate(count, count * each, _timing_seconds(judging, plans, each, threads))


def count_evaluations(judging: DeploymentJudge, plans: Mapping[str, Mapping[str, Plan]]) -> int:
    """Count the evaluations of one sample: for the plans of all bodies, and for the teacher and its check, assuming
    that the first teacher suffices."""
    tried = [plan for own in plans.values() for plan in own.values()]
    long, checked = len(judging.reference_plan.steps), 0 if judging.teacher is None else min(CHECK_SEEDS, judging.count)
    return judging.count * (_count_steps(tried) + long) + checked * (len(judging.plan.steps) + 3 * long)


def _timing_seconds(
    judging: DeploymentJudge, plans: Mapping[str, Mapping[str, Plan]], seconds: float, threads: int
) -> float:
    """Return the seconds of the timing turns: engines in pairs, then the plans. An evaluation of one sample takes
    `seconds`."""
    tried = [plan for own in plans.values() for plan in own.values()]
    pairs = len(plans) * (len(list(candidate_engines(threads, rows_of_calls(judging)[0]))) - 1)
    pairs += 1  # int8 and bf16
    # per turn: one call that is not counted, and one that ends after the turn's time
    calls = 2 * seconds * judging.batch * _count_steps(tried)
    return pairs * DUEL_SECONDS + 2 * ROUNDS * (len(tried) * (WARM_UP + TURN_SECONDS) + calls)


def rows_of_calls(judging: DeploymentJudge) -> tuple[int, int]:
    """Return the rows of x in the smallest and in the largest call of the network, since steps may have different
    branches."""
    rows = [judging.batch * len(step.branches) for step in judging.plan.steps]
    return min(rows), max(rows)


def _count_steps(plans: Iterable[Plan]) -> int:
    return sum(len(plan.steps) for plan in plans)
