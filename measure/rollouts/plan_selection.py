"""The plan along which a body is compared with float32, and warnings about it."""

from collections.abc import Mapping
from typing import cast

from fewstep.plans.any_plan import AnyPlan, check_compiled, regroup, shaping_of
from fewstep.plans.guidance import Guidance, describe
from fewstep.plans.names.plan_reference import FittedReference, TextReference
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.sampling.calibrated_plans import (
    changes_plan,
    find_calibrated_body,
    find_defaults,
    parse_plan_of_bundle,
    read_default_plan,
)
from fewstep.runtime.sampling.execution import NO_SETTINGS, PlanCompiler, plan_for
from fewstep.runtime.sampling.request import PlanSettings

MISFIT = "ranges may not fit"  # warning for a body that runs along another plan than the one of its calibration


def describe_plan(plan: AnyPlan) -> str:
    """Return a plan as text, with its guidance and shaping: "dpmpp_2m:8, guidance 2, clipped to [-1, 1]"."""
    shaping = shaping_of(plan)
    shaped = "" if shaping is None else f", {describe_shaping(shaping)}"
    return f"{plan.name}, guidance {describe(plan.guidance)}{shaped}"


def select_plan(
    compiler: PlanCompiler,
    body: Body,
    asked: TextReference | None = None,
    guidance: float | Guidance | None = None,
    settings: PlanSettings = NO_SETTINGS,
) -> Plan:
    """Return the requested plan, with its guidance and shaping, or the plan of the calibration if none is requested.

    Guidance or shaping that is not given is taken from the calibration, by the table in `calibrated_plans`. The
    calibrated plan is the stored one, or is compiled from its name if another guidance, size, shaping or strength
    changes it. `fitted:N` is the body's fitted plan; float32 is compared along it too.

    compiler: compiles plans for float32. asked: the requested plan, or None.
    """
    bundle, kept = compiler.bundle, read_default_plan(compiler.bundle, body)
    defaults = find_defaults(bundle, body, asked)
    guidance = defaults.guidance if guidance is None else guidance
    if isinstance(asked, FittedReference):
        return regroup(check_compiled(plan_for(bundle, body, asked, guidance)), compiler.body.groups)
    is_kept = kept is not None and not changes_plan(bundle, kept, guidance, settings)
    if is_kept and (asked is None or str(asked) in _names_of(kept, bundle.manifest.grid)):
        return cast(Plan, compiler.compile(kept, None, settings))
    if asked is None:
        calibrated = find_calibrated_body(bundle.manifest, body)
        name = bundle.manifest.space.default_plan if calibrated is None else calibrated.plan
        asked = parse_plan_of_bundle(str(name) if kept is None else _names_of(kept)[0])
        defaults = find_defaults(bundle, body, asked)  # the name of a scheduler takes the shaping of its config only
    if settings.get("shaping") is None:
        settings = {**settings, "shaping": defaults.shaping}
    return cast(Plan, compiler.compile(asked, guidance, settings))


def _names_of(plan: Plan, grid: str | None = None) -> tuple[str, ...]:
    """Return the names by which a plan can be requested: with its grid, and as it is written if the bundle has no
    default `grid`, which a name without a grid would mean."""
    from fewstep.plans.names.plan_name import with_grid  # imports all solvers; not needed to only run plans

    name = with_grid(plan.name)
    return (name, plan.name) if grid is None else (name,)  # with the grid, which a bare name implies


def select_plans(
    compiler: PlanCompiler,
    bodies: Mapping[str, Body],
    asked: TextReference | None = None,
    guidance: float | Guidance | None = None,
) -> dict[str, Plan]:
    """Return a plan for each body, by its name. For `fitted:N`, it is the body's own fitted plan with the guidance of
    the first body's plan. Otherwise all bodies get the plan that `select_plan` returns for the first body."""
    first = select_plan(compiler, next(iter(bodies.values())), asked, guidance)
    if not isinstance(asked, FittedReference):
        return dict.fromkeys(bodies, first)
    return {name: select_plan(compiler, body, asked, first.guidance) for name, body in bodies.items()}
