"""The plans of deployments: named ones, or few to many steps of the calibrated plan, and fitted plans."""

from collections.abc import Iterator, Sequence

from fewstep.plans.any_plan import check_compiled, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import (
    FittedReference,
    NamedReference,
    parse_plan_text,
    split_plan_name,
    with_steps,
)
from fewstep.plans.plan import Plan
from fewstep.report.choosing.deployment_judge import DeploymentJudge
from fewstep.runtime.sampling.execution import plan_for
from fewstep.runtime.sampling.request import PlanSettings

STEPS = (2, 3, 4, 5, 6, 8, 10, 12, 16)  # steps of the default plans


def compile_plans(judging: DeploymentJudge, body: str, names: Sequence[str]) -> dict[str, Plan]:
    """Return the plans to try with a body, by name: those in `names`, or the default plans. Fitted plans that the
    bundle lacks are left out.

    Raises UserError for a name that is not a plan.
    """
    bundle, guidance, shaping = judging.bundle, judging.plan.guidance, shaping_of(judging.plan)
    entry, plans = bundle.body(body), {}
    for name in names or default_plan_names(judging):
        reference = parse_plan_text(name)
        own = shaping if isinstance(reference, NamedReference) else None
        try:
            plans[name] = check_compiled(plan_for(bundle, entry, reference, guidance, PlanSettings(shaping=own)))
        except UserError:
            if not isinstance(reference, FittedReference) and name in names:
                raise
    return plans


def default_plan_names(judging: DeploymentJudge) -> Iterator[str]:
    """Yield the names of the calibrated plan's solver and grid with few to many steps, then of the fitted plans.

    A distilled denoiser keeps only the calibrated plan, since it was trained for its times.
    """
    from fewstep.plans.names.plan_name import check_no_plugin, with_grid  # imports all solvers

    name = with_grid(judging.plan.name)
    check_no_plugin(name)
    if judging.teacher is None:
        yield name
    elif split_plan_name(name).has_step_count:
        yield from (with_steps(name, count) for count in STEPS)
    fitted = judging.bundle.manifest.fitted
    yield from (str(FittedReference(count)) for count in sorted({each.evaluations for each in fitted}))
