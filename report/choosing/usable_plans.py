"""Which plans have samples of float32 that can be compared.

In few steps, a plan may predict most values far beyond its clip, which moves them to the limits. All bodies agree on
such samples, and some are near the teacher's by chance, so that a figure in dB would say nothing.
"""

from collections.abc import Mapping

from fewstep.measure.rollouts.reference_check import clip_problem, has_clip
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.report.choosing.measurement_cache import read_cached, write_cached

CHECKED = 2  # seeds
BodyPlans = Mapping[str, Mapping[str, Plan]]  # the plans of each body, by name


def without_useless_plans(judging: DeploymentJudge, tried: BodyPlans) -> tuple[dict[str, dict[str, Plan]], list[str]]:
    """Return the plans of each body whose samples by float32 can be compared, and a sentence on each other plan. Raises
    UserError if no plan is left."""
    by_name = dict[str, Plan]()
    for own in tried.values():  # float32 is first
        by_name = {**own, **by_name}
    problems = {name: _problem_of(judging, plan) for name, plan in by_name.items()}
    usable = {body: {name: plan for name, plan in own.items() if not problems[name]} for body, own in tried.items()}
    said = [f"{name} is left out: {problem}" for name, problem in problems.items() if problem]
    if said and not any(usable.values()):
        raise UserError(f"no plan can be compared: {said[0]}", "give plans of more steps: --plan")
    return {body: own for body, own in usable.items() if own}, said


def count_checks(judging: DeploymentJudge, tried: BodyPlans) -> int:
    """Count the evaluations of one sample that `without_useless_plans` makes."""
    plans = {name: plan for own in tried.values() for name, plan in own.items() if has_clip(plan)}
    return judging.decides_by_distance * _seeds(judging) * sum(len(plan.steps) for plan in plans.values())


def _problem_of(judging: DeploymentJudge, plan: Plan) -> str:
    """Return the reason why float32's samples along a plan cannot be compared; "" if they can. It is cached."""
    if not (judging.decides_by_distance and has_clip(plan)):
        return ""
    key = judging.plan_key("usable", plan)
    problem = read_cached(key, str)
    if problem is None:
        batch = next(judging.held_out_batches(range(_seeds(judging)), _seeds(judging)))
        problem = clip_problem(judging.reference, plan, batch) or ""
        write_cached(key, problem)
    return problem


def _seeds(judging: DeploymentJudge) -> int:
    return min(CHECKED, judging.count)
