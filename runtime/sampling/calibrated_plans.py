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
from typing import Any, NamedTuple

from fewstep.plans.any_plan import AnyPlan, PlanReference, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import FileReference, FittedReference, SchedulerReference
from fewstep.plans.shaping import Shaping
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.fitted_plans import find_fitted


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
