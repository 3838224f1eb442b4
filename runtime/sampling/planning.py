"""Resolve a caller's plan for one bundle and the range groups of one body: compile it, or check it."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

from fewstep.plans.any_plan import AnyPlan, regroup, shaping_of
from fewstep.plans.argument_checks import PlanReference, check_compiled
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any, read_plan
from fewstep.plans.guidance import UNCOND, Guidance
from fewstep.plans.names.plan_reference import (
    FileReference,
    FittedReference,
    NamedReference,
    SchedulerReference,
)
from fewstep.plans.plan import DENOISER, Plan
from fewstep.plans.shaping import Shaping, as_shaping
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.tokens.plan import USUAL, TokenPlan
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.fitted_plans import find_fitted
from fewstep.runtime.sampling.request import PlanSettings, check_plan, denoiser_facts, recompile_hint
from fewstep.runtime.sampling.token_planning import check_token_plan, vocabulary_of

NO_SETTINGS = PlanSettings()
Resolved = NamedReference | FittedReference | SchedulerReference | AnyPlan  # a file has been read
CONTINUOUS = ("shaping", "strength", "renoise")  # settings that token plans do not have


def plan_for(
    bundle: Bundle,
    body: Body,
    reference: PlanReference,
    guidance: float | Guidance | None = None,
    settings: PlanSettings = NO_SETTINGS,
) -> AnyPlan:
    """Return the plan for a body, with steps in the body's range groups: a `Plan`, or a `TokenPlan` for tokens.

    `Sampler.compile` documents the arguments.
    """
    facts = denoiser_facts(bundle.manifest)
    if UNCOND in (settings.get("branches") or {}):
        facts = replace(facts, guided=True)
    if isinstance(reference, FileReference):
        reference = read_plan(bundle.check_path(reference.path))
    if bundle.manifest.vocabulary is not None:
        if refused := [name for name in CONTINUOUS if settings.get(name) is not None]:
            raise UserError(f"a token plan takes no {refused[0]}", "leave it out")
        return _token_plan_for(reference, facts, bundle, guidance, body.groups)
    if guidance is not None:
        from fewstep.plans.compile import check_guidance

        check_guidance(guidance, facts)  # before the plan: no plan works with a guidance that the denoiser lacks
    return _continuous_plan_for(reference, facts, bundle, body, guidance, settings)


def _continuous_plan_for(
    reference: Resolved,
    facts: DenoiserFacts,
    bundle: Bundle,
    body: Body,
    guidance: float | Guidance | None,
    settings: PlanSettings,
) -> Plan:
    """Return the plan of a reference for a denoiser of continuous samples."""
    shaping, strength, renoise = as_shaping(settings.get("shaping")), settings.get("strength"), settings.get("renoise")
    match reference:
        case NamedReference(parts):
            from fewstep.plans.compile import bind_plan_name, compile_plan  # load all solvers; only a name needs them

            name = bind_plan_name(parts, facts, strength)
            own = _shaping_of_calibration(bundle, body, name.text) if shaping is None else shaping
            return compile_plan(name, facts, guidance, own, body.groups, strength, renoise)
        case FittedReference(evaluations):
            plan = find_fitted(evaluations, bundle, body, guidance, shaping, strength)
            guidance = None  # `find_fitted` has checked it
        case SchedulerReference(steps):
            if renoise is not None or shaping is not None:
                what = f"plan '{reference}' takes no renoise and no shaping"
                raise UserError(what, "give SOLVER:STEPS, which takes both")
            from fewstep.runtime.sampling.scheduler_plans import scheduler_plan  # rarely needed, slow to load

            plan = scheduler_plan(steps, guidance, facts.guided, bundle, strength)
        case _:
            plan = check_compiled(reference, "use dpmpp_2m:8")
    check_plan(plan, guidance, strength, renoise, bundle)
    if shaping is not None and {step.shaping for step in plan.steps if step.shaping is not None} != {shaping}:
        raise UserError(f"plan {plan.name!r} was compiled without shaping {shaping}", recompile_hint(plan))
    return regroup(plan, {DENOISER: body.groups} if bundle.manifest.networks else body.groups)


def _token_plan_for(
    reference: Resolved,
    facts: DenoiserFacts,
    bundle: Bundle,
    guidance: float | Guidance | None,
    groups: tuple[float, ...],
) -> TokenPlan:
    """Return the plan of a reference for a token denoiser and samples of the manifest's shape."""
    shape, vocabulary = bundle.manifest.x_shape, vocabulary_of(bundle.manifest).size
    match reference:
        case NamedReference(parts):
            from fewstep.plans.compile_tokens import compile_tokens  # loads all solvers; only a name needs them

            return compile_tokens(parts, facts, shape, vocabulary, guidance, groups)
        case SchedulerReference(steps):
            from fewstep.plans.compile_tokens import compile_tokens
            from fewstep.runtime.sampling.scheduler_plans import scheduler_sampler  # rarely needed, slow to load

            return compile_tokens(scheduler_sampler(steps, bundle), facts, shape, vocabulary, guidance, groups)
        case FittedReference():
            what = f"plan '{reference}' is for continuous samples, but this denoiser predicts tokens"
            raise UserError(what, f"take {USUAL}")
        case _:
            return check_token_plan(reference, bundle, guidance, groups)


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


def default_guidance(bundle: Bundle, body: Body, reference: PlanReference | None) -> Guidance | None:
    """Return the guidance of a run that was given none, for programs and for the command line.

    It is the guidance of the calibrated plan if `reference` is a name, or None (the default plan). A fitted plan gets
    it only if it was fitted at that guidance. A compiled plan and a plan file keep theirs, so this returns None.
    """
    if isinstance(reference, FileReference | Plan | TokenPlan):
        return None
    kept = own_plan(bundle, body)
    guidance: Guidance | None = None if kept is None else kept.guidance
    if guidance is None or not isinstance(reference, FittedReference):
        return guidance
    with suppress(UserError):
        find_fitted(reference.evaluations, bundle, body, guidance)
        return guidance
    return None


def _shaping_of_calibration(bundle: Bundle, body: Body, name: str) -> Shaping | None:
    """Return the shaping of the body's calibrated plan if that has this name, else None."""
    from fewstep.plans.names.plan_name import with_grid

    own = calibrated_body(bundle.manifest, body)
    if own is None or with_grid(own.plan or "") != with_grid(name):
        return None  # before its file is read
    kept = calibrated_plan(bundle, own)
    return None if kept is None else shaping_of(kept)
