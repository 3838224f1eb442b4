"""The plan and the guidance that a bundle was calibrated with: the defaults of its runs."""

from contextlib import suppress
from typing import Any

from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.argument_checks import PlanReference
from fewstep.plans.errors import UserError
from fewstep.plans.file import decode_any
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_reference import FileReference, FittedReference
from fewstep.plans.shaping import Shaping
from fewstep.runtime.bundle.manifest import Body, Manifest
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.fitted_plans import find_fitted


def calibrated_body(manifest: Manifest, body: Body) -> Body | None:
    """Return the body itself if it was calibrated along a plan, else the first body that was, or None.

    All bodies of a bundle, including float32, therefore have the same default plan.
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
    """Return the guidance of a run for which the caller gave none. Programs and the command line share this rule.

    It is the guidance of the calibrated plan if `reference` is a name, or None (the default plan). A fitted plan gets
    it only if it was fitted at that guidance. A compiled plan and a plan file keep theirs, so this returns None.
    """
    if isinstance(reference, FileReference | AnyPlan):
        return None
    kept = own_plan(bundle, body)
    guidance: Guidance | None = None if kept is None else kept.guidance
    if guidance is None or not isinstance(reference, FittedReference):
        return guidance
    with suppress(UserError):
        find_fitted(reference.evaluations, bundle, body, guidance)
        return guidance
    return None


def shaping_of_calibration(bundle: Bundle, body: Body, name: str) -> Shaping | None:
    """Return the shaping of the body's calibrated plan if that has this name, else None."""
    from fewstep.plans.names.plan_name import with_grid

    own = calibrated_body(bundle.manifest, body)
    if own is None or with_grid(own.plan or "") != with_grid(name):
        return None  # compared before the plan's file is read
    kept = calibrated_plan(bundle, own)
    return None if kept is None else shaping_of(kept)
