"""The plans of deployments: named ones, or few to many steps of the calibrated plan's solver and of the bundle's own
scheduler, and fitted plans.

A plan that draws noise in its steps leads from the same seed to another sample than the teacher. Their distance says
nothing about quality, and grows with the number of steps. Such plans can only be compared by a user's judge, or with a
student's own plan.
"""

from collections.abc import Iterator, Sequence

from fewstep.measure.sampling import FLOAT
from fewstep.plans.any_plan import check_compiled, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import (
    SCHEDULER,
    FittedReference,
    NamedReference,
    SchedulerReference,
    join_plan_name,
    parse_plan_text,
    split_plan_name,
    with_steps,
)
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.runtime.sampling.execution import plan_for
from fewstep.runtime.sampling.request import PlanSettings

STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 16)  # steps of the default plans
WITHOUT_NOISE = "dpmpp_2m"  # the solver of the default plans, if the calibrated one draws noise in its steps
WHY = "such samples differ from the teacher's of the same seed, whatever their quality"


def compile_plans(judging: DeploymentJudge, body: str, names: Sequence[str]) -> dict[str, Plan]:
    """Return the plans to try with a body, by name: those in `names`, or the default plans. Fitted plans that the
    bundle lacks are left out, and default plans that draw noise if distances decide.

    Raises UserError for a name that is not a plan, and for a named plan that draws noise if distances decide.
    """
    plans = _compile_all(judging, body, names or [*default_plan_names(judging)], names)
    noisy = {name: plan for name, plan in plans.items() if plan.is_stochastic and judging.decides_by_distance}
    if names and noisy:
        what = f"{next(iter(noisy.values())).name} draws noise in its steps, and {WHY}"
        raise UserError(what, f"give plans that draw none, such as {WITHOUT_NOISE}:4, or a --judge")
    return {name: plan for name, plan in plans.items() if name not in noisy}


def _compile_all(
    judging: DeploymentJudge, body: str, listed: Sequence[str], required: Sequence[str]
) -> dict[str, Plan]:
    """Compile plans for a body, by name. Only those in `required` must exist; fitted plans need not."""
    bundle, guidance, shaping = judging.bundle, judging.plan.guidance, shaping_of(judging.plan)
    entry, plans = bundle.body(body), {}
    for name in listed:
        reference = parse_plan_text(name)
        own = shaping if isinstance(reference, NamedReference) else None
        try:
            plans[name] = check_compiled(plan_for(bundle, entry, reference, guidance, PlanSettings(shaping=own)))
        except UserError:
            if not isinstance(reference, FittedReference) and name in required:
                raise
    return plans


def describe_noise(judging: DeploymentJudge, names: Sequence[str]) -> tuple[str, ...]:
    """Return a sentence for each default plan that is left out because it draws noise: that of the calibrated plan's
    solver, and those of the bundle's own scheduler."""
    if names:
        return ()
    if _draws_noise(judging):
        return (f"{judging.plan.name} draws noise in its steps, so {WITHOUT_NOISE} is compared: {WHY}",)
    listed = [name for name in default_plan_names(judging) if split_plan_name(name).is_of_scheduler]
    noisy = [name for name, plan in _compile_all(judging, FLOAT, listed, ()).items() if plan.is_stochastic]
    if not (noisy and judging.decides_by_distance):
        return ()
    return (f"{SCHEDULER}STEPS is left out, since it draws noise in its steps: {WHY}",)


def _draws_noise(judging: DeploymentJudge) -> bool:
    """Return whether the calibrated plan cannot be compared, because it draws noise and distances decide."""
    return judging.plan.is_stochastic and judging.decides_by_distance


def default_plan_names(judging: DeploymentJudge) -> Iterator[str]:
    """Yield the names of the calibrated plan's solver and grid with few to many steps, of the bundle's own scheduler
    with the same numbers of steps, and of the fitted plans.

    A distilled denoiser keeps only the calibrated plan, since it was trained for its times. If the calibrated plan
    draws noise, the names are those of a solver that draws none.
    """
    from fewstep.plans.names.plan_name import check_no_plugin, with_grid  # imports all solvers

    manifest, without_noise = judging.bundle.manifest, join_plan_name(WITHOUT_NOISE, STEPS[0], None)
    name = with_grid(without_noise if _draws_noise(judging) else judging.plan.name)
    check_no_plugin(name)
    if judging.teacher is None:
        yield name
    else:
        if split_plan_name(name).has_step_count:
            yield from (with_steps(name, count) for count in STEPS)
        if manifest.scheduler is not None and not split_plan_name(name).is_of_scheduler:
            yield from (str(SchedulerReference(count)) for count in STEPS)
    yield from (str(FittedReference(count)) for count in sorted({plan.evaluations for plan in manifest.fitted}))
