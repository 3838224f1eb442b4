"""The memory, the evaluations and the time of a choice, before it begins."""

from collections.abc import Iterable, Mapping

from fewstep.graph.resource_needs import Needs
from fewstep.measure.cost import sampling_needs
from fewstep.measure.estimate import Estimate, seconds_per_evaluation
from fewstep.measure.rollouts.seeds import OTHER_SEEDS
from fewstep.measure.sampling import FEW
from fewstep.measure.speed.contender_process import WARM_UP
from fewstep.measure.speed.duel import DUEL_SECONDS
from fewstep.measure.speed.timed_process import TURN_SECONDS
from fewstep.measure.teacher import CHECK_SEEDS
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.deployment_times import ROUNDS, measure_opening
from fewstep.report.choosing.engines import TimedEngine, count_engines, read_fastest_engine, runnable_bodies
from fewstep.report.choosing.measurement_cache import read_cached
from fewstep.report.choosing.saved_choice import Deployment
from fewstep.report.choosing.usable_plans import count_checks
from fewstep.runtime.bundle.networks import networks
from fewstep.runtime.bundle.reading import Bundle

TYPICAL_ROUNDS = 7  # of a duel: six rounds that agree end it, and few duels last DUEL_SECONDS
PLAN_ROUNDS = 1.4 * ROUNDS  # if the times of plans do not grow with their steps, rounds go on
OPENINGS = 1.3  # mean time in which an engine opens, as a multiple of onnxruntime's; OpenVINO compiles
INT8_TIME = 0.6  # assumed time of a call of an int8 body, as a multiple of float32's
FAR = 2.0  # multiple of the budget; a plan that is expected to take longer is not tried


def estimate_needs(bundle: Bundle, plan: Plan, batch: int) -> Needs:
    """Return the memory needed to have float32 and the two engines of a body open at once, for the body that needs
    most."""
    each = [sampling_needs(bundle, (name, name), plan, max(FEW, batch), ()) for name in runnable_bodies(bundle)]
    return max(each, key=lambda need: need.memory)


def estimate(
    judging: DeploymentJudge, plans: Mapping[str, Mapping[str, Plan]], threads: int, budget: float | None = None
) -> Estimate:
    """Estimate the duration of a choice from one evaluation of float32 and one start of a process, both measured now.

    An int8 body is assumed to take INT8_TIME of float32's time, and a comparison of two deployments TYPICAL_ROUNDS.
    What is cached from an earlier choice takes no time. `budget` is the time limit in milliseconds; plans that exceed
    it are not counted.
    """
    count = count_evaluations(judging, plans)
    batch = min(FEW, judging.count)
    each = seconds_per_evaluation(judging.reference, judging.plan, judging.records, count=count, batch=batch)
    fewest, most = judging.fewest_rows, judging.most_rows
    tried, fresh = dict[str, dict[str, Plan]](), dict[str, dict[str, Plan]]()
    opened, duels = 1, 0  # the unit of time is always opened
    for body, all_plans in plans.items():
        engine = read_fastest_engine(judging.bundle, body, most, threads, fewest)
        expected = 1000 * each * judging.batch * _time_of(judging, body) * len(networks(judging.bundle.manifest))
        call = expected if engine is None or engine.milliseconds is None else engine.milliseconds
        own = tried[body] = select_tried(all_plans, call, judging, budget)
        fresh[body] = {name: plan for name, plan in own.items() if not _is_cached(judging, body, engine, plan)}
        opened += 2 * bool(fresh[body])
        if engine is None:
            candidates = count_engines(judging.bundle, body, most, threads, fewest)
            opened, duels = opened + candidates, duels + candidates - 1
    steps = sum(_time_of(judging, body) * _count_steps(own.values()) for body, own in fresh.items())
    sampling = each * (judging.count * steps + _teacher_evaluations(judging))
    opening = OPENINGS * measure_opening(judging, threads) if opened > 1 else 0.0
    call = each * judging.batch
    turns = duels * min(DUEL_SECONDS, TYPICAL_ROUNDS * 2 * _turn_seconds(call))
    calls = [_time_of(judging, body) * call * len(plan.steps) for body, own in fresh.items() for plan in own.values()]
    turns += PLAN_ROUNDS * sum(_turn_seconds(one) + _turn_seconds(call) for one in calls)
    return Estimate(count_evaluations(judging, tried), sampling, opened * opening + turns)


def select_tried(
    plans: Mapping[str, Plan], call: float, judging: DeploymentJudge, budget: float | None
) -> dict[str, Plan]:
    """Return the shortest plan, and those that are not expected to exceed FAR times the budget.

    call: milliseconds of a call of the engine, which runs each network once. budget: in milliseconds.
    """
    shortest = min(len(plan.steps) for plan in plans.values())
    step = call / len(networks(judging.bundle.manifest))
    return {
        name: plan
        for name, plan in plans.items()
        if budget is None or len(plan.steps) == shortest or len(plan.steps) * step <= FAR * budget
    }


def _is_cached(judging: DeploymentJudge, body: str, engine: TimedEngine | None, plan: Plan) -> bool:
    return engine is not None and read_cached(judging.cache_key(body, engine, plan), Deployment) is not None


def _time_of(judging: DeploymentJudge, body: str) -> float:
    """Return the assumed time of a body's call, as a multiple of float32's."""
    return INT8_TIME if judging.bundle.body(body).precision == "int8" else 1.0


def _turn_seconds(call: float) -> float:
    """Return the seconds of one turn in a comparison of two deployments, given the seconds of a call. A turn makes
    calls for at least TURN_SECONDS, after calls for at least WARM_UP that are not counted."""
    return max(WARM_UP, call) + max(TURN_SECONDS, call)


def count_evaluations(judging: DeploymentJudge, plans: Mapping[str, Mapping[str, Plan]]) -> int:
    """Count the evaluations of one sample: for the plans of all bodies, and for the teacher and its check, assuming
    that the first teacher suffices."""
    tried = [plan for own in plans.values() for plan in own.values()]
    return judging.count * _count_steps(tried) + count_checks(judging, plans) + _teacher_evaluations(judging)


def _teacher_evaluations(judging: DeploymentJudge) -> int:
    """Count the evaluations of one sample by the teacher, by its check, and by the check of its samples, which are
    compared with those of other seeds and of other conditions."""
    long, checked = len(judging.reference_plan.steps), 0 if judging.teacher is None else min(CHECK_SEEDS, judging.count)
    compared = (2 + bool(judging.bundle.manifest.conditions)) * min(len(OTHER_SEEDS), judging.count)
    return (judging.count + compared) * long + checked * (len(judging.plan.steps) + 3 * long)


def _count_steps(plans: Iterable[Plan]) -> int:
    return sum(len(plan.steps) for plan in plans)
