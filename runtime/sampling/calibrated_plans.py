"""What a bundle's calibration passes to its runs: a default plan, and guidance and shaping for plans given by name.

One rule holds for programs and for all commands. What the caller gives is used, and the table says what replaces a
missing guidance or shaping:

| plan | guidance | shaping, such as a clip |
|---|---|---|
| none, or SOLVER:STEPS | that of the calibrated plan | that of the calibrated plan |
| scheduler:STEPS | that of the calibrated plan | that of the scheduler's config |
| fitted:STEPS | that of the calibrated plan; none if all fits are without guidance | none: fits have none |
| a plan file, or a compiled plan | its own | its own |
"""

from contextlib import suppress
from typing import Any, NamedTuple, cast

from fewstep.plans.any_plan import AnyPlan, PlanReference, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import Guidance, as_guidance
from fewstep.plans.names.plan_reference import (
    FileReference,
    FittedReference,
    SchedulerReference,
    TextReference,
    parse_plan_text,
    split_plan_name,
)
from fewstep.plans.shaping import Shaping
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import Bundle, open_bundle
from fewstep.runtime.sampling.fitted_plans import find_fitted
from fewstep.runtime.sampling.request import PlanSettings


def find_calibrated_body(manifest: Manifest, body: Body) -> Body | None:
    """Return the body itself if it was calibrated along a plan, else the first body that was. None if no body was.

    All bodies of a bundle, including float32, therefore have the same default plan.
    """
    return next((each for each in (body, *manifest.bodies.values()) if each.plan is not None), None)


def read_calibrated_plan(bundle: Bundle, body: Body) -> Any:
    """Return the plan that a body was calibrated along, a `Plan` or a `TokenPlan`. None if the bundle has none."""
    file = bundle.manifest.plans.get(body.plan or "")
    return None if file is None else decode_any(bundle.read(file), file)


def read_default_plan(bundle: Bundle, body: Body) -> Any:
    """Return the plan of `find_calibrated_body`. None if the bundle has none."""
    calibrated = find_calibrated_body(bundle.manifest, body)
    return None if calibrated is None else read_calibrated_plan(bundle, calibrated)


class Defaults(NamedTuple):
    """The guidance and the shaping of a run for which the caller gave neither. None means no guidance, or no
    shaping."""

    guidance: Guidance | None = None
    shaping: Shaping | None = None


def find_defaults(bundle: Bundle, body: Body, reference: PlanReference | None) -> Defaults:
    """Return the guidance and the shaping of a run for which the caller gave neither, by the table of this module.
    `reference` is None for the default plan."""
    if isinstance(reference, FileReference | AnyPlan) or (kept := read_default_plan(bundle, body)) is None:
        return Defaults()
    if isinstance(reference, SchedulerReference):
        return Defaults(kept.guidance)
    if not isinstance(reference, FittedReference):
        return Defaults(kept.guidance, shaping_of(kept))
    for guidance in (kept.guidance, None):
        with suppress(UserError):
            find_fitted(reference.evaluations, bundle, body, guidance)
            return Defaults(guidance)
    return Defaults(kept.guidance)  # its error advises a fit at this guidance


def find_default_plan(
    bundle: Bundle, body: Body, guidance: float | Guidance | None, settings: PlanSettings
) -> PlanReference:
    """Return the plan of a run that names none: the stored plan of the calibration, or the reference of
    `default_reference` if the run's settings require another one."""
    kept = read_default_plan(bundle, body)
    weight = guidance if guidance is not None or kept is None else kept.guidance
    if kept is not None and not changes_plan(bundle, kept, weight, settings):
        return cast(AnyPlan, kept)
    return default_reference(bundle, body, True, settings.get("strength") is not None)


def default_reference(bundle: Bundle, body: Body, is_changed: bool, has_strength: bool) -> TextReference:
    """Return the plan of a run that names none: the calibrated plan; without a calibration, the plan of the denoiser's
    own scheduler; without a scheduler, the default plan.

    is_changed: whether the run has another guidance, size, clip or strength than the stored plan, and its name has to
        be compiled again. has_strength: whether it starts from an image.
    """
    manifest, calibrated = bundle.manifest, find_calibrated_body(bundle.manifest, body)
    if calibrated is None or calibrated.plan is None:
        is_own = manifest.scheduler is not None and not has_strength and not manifest.vocabulary
        return _own_plan(bundle) if is_own else parse_plan_text(manifest.space.default_plan)
    file = manifest.plans.get(calibrated.plan)
    if file is not None and not is_changed:
        return FileReference(bundle.path / file)
    if names_solver(calibrated.plan):
        from fewstep.plans.names.plan_name import with_grid  # imports all solvers; only names need them

        return parse_plan_text(calibrated.plan if file is None else with_grid(calibrated.plan))
    if split_plan_name(calibrated.plan).is_of_scheduler:
        return parse_plan_of_bundle(calibrated.plan)
    if has_strength:
        return parse_plan_text(manifest.space.default_plan)
    if file is not None:
        return FileReference(bundle.path / file)  # its name cannot be compiled
    return parse_plan_of_bundle(calibrated.plan)


def _own_plan(bundle: Bundle) -> SchedulerReference:
    """Return the plan of the scheduler that came with a denoiser."""
    from fewstep.runtime.sampling.scheduler_plans import usual_steps  # slow to load

    return SchedulerReference(usual_steps(bundle))


def names_solver(name: str) -> bool:
    """Return whether a name is a valid plan name that needs no plugin. The name is from a bundle, and a bundle must not
    cause plugins of other packages to be imported."""
    from fewstep.plans.names.plan_name import plugin_of_name  # both import all solvers; only names need them
    from fewstep.plans.names.token_plan_name import parse_any_plan_name

    if plugin_of_name(name) is not None:
        return False
    with suppress(UserError):
        return bool(parse_any_plan_name(name))
    return False


def changes_plan(bundle: Bundle, kept: AnyPlan, guidance: float | Guidance | None, settings: PlanSettings) -> bool:
    """Return whether the stored plan cannot be used, because the run's guidance, size, shaping, strength or renoise
    requires other coefficients. None as guidance stands for no guidance."""
    manifest = bundle.manifest
    is_sized = bool(manifest.sizes) and open_bundle(bundle.path).manifest.x_shape != manifest.x_shape
    is_set = any(settings.get(name) is not None for name in ("shaping", "strength", "renoise"))
    return is_sized or is_set or as_guidance(guidance) != kept.guidance


def parse_plan_of_bundle(name: str) -> TextReference:
    """Return the reference of a plan name from the bundle. Raises UserError if it would import a plugin."""
    from fewstep.plans.names.plan_name import check_no_plugin  # imports all solvers; not needed to only run plans

    check_no_plugin(name)
    return parse_plan_text(name)
