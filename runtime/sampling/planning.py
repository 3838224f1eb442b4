"""Resolve a caller's plan for one bundle and the range groups of one body: compile it, or check it."""

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from fewstep.plans.any_plan import AnyPlan, regroup, shaping_of
from fewstep.plans.argument_checks import check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import UNCOND, Guidance
from fewstep.plans.plan import DENOISER
from fewstep.plans.shaping import Shaping, as_shaping
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.fitted_plans import FITTED, find_fitted
from fewstep.runtime.sampling.request import (
    SCHEDULER,
    PlanSettings,
    check_plan,
    denoiser_facts,
    read_plan,
    recompile_hint,
)
from fewstep.runtime.sampling.token_planning import token_plan_for

PlanLike = str | Path | AnyPlan
NO_SETTINGS = PlanSettings()
CONTINUOUS = ("shaping", "strength", "renoise")  # settings that token plans do not have


def plan_for(
    bundle: Bundle,
    body: Body,
    plan: PlanLike,
    guidance: float | Guidance | None = None,
    settings: PlanSettings = NO_SETTINGS,
) -> AnyPlan:
    """Return the plan for a body, with steps in the body's range groups: a `Plan`, or a `TokenPlan` for tokens.

    `Sampler.compile` documents the arguments.
    """
    shaping, strength, renoise = as_shaping(settings.get("shaping")), settings.get("strength"), settings.get("renoise")
    facts, manifest = denoiser_facts(bundle.manifest), bundle.manifest
    if UNCOND in (settings.get("branches") or {}):
        facts = replace(facts, guided=True)
    if not isinstance(plan, PlanLike):
        fix = "give SOLVER:STEPS such as 'dpmpp_2m:8', or a plan's path"
        if isinstance(plan, list | tuple):
            fix = "call `sample_each`, which takes a plan for each sample"
        raise UserError(f"plan {plan!r} is not a plan", fix)
    if isinstance(plan, Path) or (isinstance(plan, str) and plan.endswith(".json")):
        plan = read_plan(bundle.check_path(Path(plan)))
    if manifest.vocabulary is not None:
        if refused := [name for name in CONTINUOUS if settings.get(name) is not None]:
            raise UserError(f"a token plan takes no {refused[0]}", "leave it out")
        return token_plan_for(plan, facts, bundle, guidance, body.groups)
    if guidance is not None:
        from fewstep.plans.compile import check_guidance

        check_guidance(guidance, facts)  # before the plan: no plan works with a guidance that the denoiser lacks
    if isinstance(plan, str) and plan.startswith(FITTED):
        plan = find_fitted(plan, bundle, body, guidance, shaping, strength)
        guidance = None  # `find_fitted` has checked it
    if isinstance(plan, str) and plan.startswith(SCHEDULER):
        if renoise is not None or shaping is not None:
            raise UserError(f"plan {plan!r} takes no renoise and no shaping", "give SOLVER:STEPS, which takes both")
        from fewstep.runtime.sampling.scheduler_plans import scheduler_plan  # rarely needed, slow to load

        plan = scheduler_plan(plan, guidance, facts.guided, bundle, strength)
    if isinstance(plan, str):
        from fewstep.plans.compile import compile_plan  # loads all solvers, which running a plan does not need

        made = compile_plan(plan, facts, guidance, shaping, body.groups, strength, renoise)
        own = _calibrated_shaping(bundle, body, made.name) if shaping is None else None
        return made if own is None else compile_plan(plan, facts, guidance, own, body.groups, strength, renoise)
    plan = check_compiled(plan, "use dpmpp_2m:8")
    check_plan(plan, guidance, strength, renoise, bundle)
    if shaping is not None and {step.shaping for step in plan.steps if step.shaping is not None} != {shaping}:
        raise UserError(f"plan {plan.name!r} was compiled without shaping {shaping}", recompile_hint(plan))
    return regroup(plan, {DENOISER: body.groups} if manifest.networks else body.groups)


def calibrated_body(manifest: Manifest, body: Body) -> Body | None:
    """Return the body itself if it was calibrated along a plan, else the first body that was, or None.

    So all bodies of a bundle have the same default plan, float32 included.
    """
    return next((each for each in (body, *manifest.bodies.values()) if each.plan is not None), None)


def calibrated_plan(bundle: Bundle, body: Body) -> Any:
    """Return the plan that a body was calibrated along, a `Plan` or a `TokenPlan`. None if the bundle has none."""
    file = bundle.manifest.plans.get(body.plan or "")
    return None if file is None else decode_any(bundle.read(file), file)


def own_plan(bundle: Bundle, body: Body) -> Any:
    """Return the plan of `calibrated_body`. None if the bundle has none."""
    calibrated = calibrated_body(bundle.manifest, body)
    return None if calibrated is None else calibrated_plan(bundle, calibrated)


def default_guidance(bundle: Bundle, body: Body, plan: PlanLike | None) -> Guidance | None:
    """Return the guidance of a run that was given none, for programs and for the command line.

    It is the guidance of the calibrated plan if `plan` is a name, or None (the default plan). A fitted plan gets it
    only if it was fitted at that guidance. A compiled plan and a plan file keep theirs, so this returns None.
    """
    if (plan is not None and not isinstance(plan, str)) or (plan or "").endswith(".json"):
        return None
    kept = own_plan(bundle, body)
    guidance: Guidance | None = None if kept is None else kept.guidance
    if plan is None or guidance is None or not plan.startswith(FITTED):
        return guidance
    with suppress(UserError):
        find_fitted(plan, bundle, body, guidance)
        return guidance
    return None


def _calibrated_shaping(bundle: Bundle, body: Body, name: str) -> Shaping | None:
    """Return the shaping of the body's calibrated plan if that has this name, else None."""
    from fewstep.plans.names.plan_name import with_grid

    own = calibrated_body(bundle.manifest, body)
    if own is None or with_grid(own.plan or "") != with_grid(name):
        return None  # before its file is read
    kept = calibrated_plan(bundle, own)
    return None if kept is None else shaping_of(kept)
