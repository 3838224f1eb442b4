"""The plan along which a body is judged, and texts of warnings about it."""

from collections.abc import Mapping
from contextlib import suppress
from typing import cast

from fewstep.plans.any_plan import AnyPlan, check_compiled, regroup, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance, as_guidance, describe
from fewstep.plans.names.plan_reference import (
    FileReference,
    FittedReference,
    SchedulerReference,
    TextReference,
    parse_plan_text,
)
from fewstep.plans.plan import Plan
from fewstep.plans.shaping import describe_shaping
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.sampling.calibrated_plans import calibrated_plan
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
    """Return the requested plan, or else the plan of the body's calibration, including guidance and shaping.

    What is missing comes from this body's calibration, by the rule of `calibrated_plans`.
    The calibrated plan is the stored one, or is compiled from its name if another guidance, size, shaping or strength
    changes it. `fitted:N` is the body's fitted plan; float32 is compared along it too.

    compiler: compiles plans for float32. asked: the requested plan, or None.
    """
    manifest, calibrated = compiler.bundle.manifest, calibrated_plan(compiler.bundle, body)
    form = as_guidance(guidance) if guidance is not None or calibrated is None else calibrated.guidance
    if isinstance(asked, FittedReference):
        guidances = (form, None, form) if guidance is None else (form,)  # at the calibrated one, or fitted without
        for each in guidances[:-1]:
            with suppress(UserError):
                return regroup(check_compiled(plan_for(compiler.bundle, body, asked, each)), compiler.body.groups)
        return regroup(check_compiled(plan_for(compiler.bundle, body, asked, form)), compiler.body.groups)
    if calibrated is None:
        asked = asked or _of_bundle(body.plan or manifest.space.default_plan)
        return cast(Plan, compiler.compile(asked, guidance, settings))
    from fewstep.plans.names.plan_name import with_grid  # imports all solvers; not needed to only run plans

    name = with_grid(calibrated.name)
    names = (name, calibrated.name) if manifest.grid is None else (name,)  # with the grid, which a bare name implies
    is_sized = bool(manifest.sizes) and open_bundle(compiler.bundle.path).manifest.x_shape != manifest.x_shape
    is_changed = is_sized or settings.get("shaping") is not None or settings.get("strength") is not None
    if (asked is None or str(asked) in names) and form == calibrated.guidance and not is_changed:
        return cast(Plan, compiler.compile(calibrated, None, settings))
    asked = asked or _of_bundle(name)
    if isinstance(asked, FileReference):
        return cast(Plan, compiler.compile(asked, guidance, settings))  # it has its own guidance
    if settings.get("shaping") is None and not isinstance(asked, SchedulerReference):
        settings = {**settings, "shaping": shaping_of(calibrated)}
    return cast(Plan, compiler.compile(asked, form, settings))


def _of_bundle(name: str) -> TextReference:
    """Return the reference of a plan name from the bundle. Raises UserError if it would import a plugin."""
    from fewstep.plans.names.plan_name import check_no_plugin  # imports all solvers; not needed to only run plans

    check_no_plugin(name)
    return parse_plan_text(name)


def select_plans(
    compiler: PlanCompiler,
    bodies: Mapping[str, Body],
    asked: TextReference | None = None,
    guidance: float | Guidance | None = None,
) -> dict[str, Plan]:
    """Return the plan of each body: `select_plan` of the first, or for `fitted:N` each body's own at that guidance."""
    first = select_plan(compiler, next(iter(bodies.values())), asked, guidance)
    if not isinstance(asked, FittedReference):
        return dict.fromkeys(bodies, first)
    return {name: select_plan(compiler, body, asked, first.guidance) for name, body in bodies.items()}
