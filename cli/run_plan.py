"""Checks of the plan of a run, and the warning for a plan that a body was not calibrated for."""

import logging
from collections.abc import Collection
from typing import Any

from fewstep.measure.rollouts.plan_selection import MISFIT, describe_plan
from fewstep.plans.any_plan import AnyPlan, shaping_of
from fewstep.plans.errors import UserError
from fewstep.plans.file import read_plan
from fewstep.plans.guidance import UNCOND, Guidance, as_guidance, branch_weights, describe, needs_null, to_text
from fewstep.plans.names.plan_name import with_grid
from fewstep.plans.names.plan_reference import FileReference, NamedReference, TextReference
from fewstep.plans.names.token_plan_name import parse_any_plan_name
from fewstep.plans.plan import IMAGE
from fewstep.plans.shaping import Clip, Shaping, describe_shaping
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.calibrated_plans import (
    Defaults,
    names_solver,
    read_calibrated_plan,
    read_default_plan,
)

LOG = logging.getLogger("fewstep")


def check_reference(reference: TextReference) -> None:
    """Raise UserError for a plan that is invalid for any denoiser, before anything is loaded."""
    match reference:
        case FileReference(path):
            read_plan(path)
        case NamedReference(name):
            parse_any_plan_name(name)


def check_given_by_options(plan: AnyPlan, offered: Collection[str]) -> None:
    """Raise UserError if the plan starts from a tensor that no option provides.

    Examples are the saved state with which the second part of a split plan starts, and noise from the caller.
    """
    if missing := [name for name in plan.given if name not in offered]:
        fix = (
            "give --image, and --strength or --start-noise"
            if missing[0] == IMAGE
            else "run it with `Sampler.sample(given=...)` in Python, or bake it"
        )
        raise UserError(f"plan {plan.name!r} starts from {missing[0]!r}, which no option provides", fix)


def count_branches(reference: TextReference | None, guidance: float | Guidance | None) -> int:
    """Return the number of branches of a guided step of a plan."""
    if isinstance(reference, FileReference):
        return max(len(step.branches) for step in read_plan(reference.path).steps)
    return len(branch_weights(as_guidance(guidance), 0, 0.0))


def needs_negative(reference: TextReference | None, guidance: float | Guidance | None) -> bool:
    """Return True if a step of a plan evaluates the unconditional branch."""
    if isinstance(reference, FileReference):
        return any(UNCOND in step.branches for step in read_plan(reference.path).steps)
    return needs_null(as_guidance(guidance))


def describe_defaults(
    defaults: Defaults, guidance: float | Guidance | None, clip: float | None, origin: str = "calibrated"
) -> str:
    """Return a clause about the guidance and shaping that a run with these options takes from the calibration or a
    choice, such as ", guidance 2 and clipped to [-1, 1] as calibrated"; "" if it takes none."""
    taken = []
    if guidance is None and defaults.guidance is not None:
        taken.append(f"guidance {describe(defaults.guidance)}")
    if clip is None and defaults.shaping is not None:
        taken.append(describe_shaping(defaults.shaping))
    return f", {' and '.join(taken)} as {origin}" if taken else ""


def _range_settings(plan: Any) -> tuple[str, Guidance | None, Shaping | None]:
    return with_grid(plan.name), plan.guidance, shaping_of(plan)


def describe_calibration_mismatch(bundle: Bundle, body: Body, plan: Any) -> str | None:
    """Return a warning if the body was calibrated with another plan, guidance or shaping, otherwise None.

    The warning names both plans. For float bodies, the only mismatch is that the bundle's default plan
    clips and this plan does not.
    """
    if not body.is_quantized:
        return _describe_missing_clip(read_default_plan(bundle, body), plan)
    if (calibrated := read_calibrated_plan(bundle, body)) is None:
        return None
    if plan.fitted is not None and shaping_of(plan) == shaping_of(calibrated):
        return None  # `fewstep fit` compared the guidance
    if plan.steps == calibrated.steps or _range_settings(plan) == _range_settings(calibrated):
        return None  # one plan may have several names
    along = f"{body.precision} was calibrated along {describe_plan(calibrated)}, and runs along {describe_plan(plan)}"
    return f"{along}: its {MISFIT}{_calibration_remedy(calibrated, plan)}"


def warn_of_mismatch(bundle: Bundle, body: Body, plan: AnyPlan, clip: float | None) -> None:
    """Log how a run's plan differs from the calibration of its body. With --clip, nothing is logged for a float body,
    because the user then decides about clipping."""
    unlike = describe_calibration_mismatch(bundle, body, plan)
    if unlike is not None and (clip is None or body.is_quantized):
        LOG.warning("%s", unlike)


def _describe_missing_clip(calibrated: Any, plan: Any) -> str | None:
    """Return a warning if the plan does not clip x0 although the bundle was calibrated along a plan that does.
    Otherwise return None."""
    if calibrated is None or shaping_of(plan) is not None or not isinstance(shaping_of(calibrated), Clip):
        return None
    what = f"the bundle was calibrated along {describe_plan(calibrated)}, and {plan.name} does not clip"
    return f"{what}: its samples may leave the range of the data{_clip_remedy(plan.name, shaping_of(calibrated))}"


def _clip_remedy(name: str, shaping: Shaping | None) -> str:
    """Return, as a clause, the options with which a solver's plan clips as the calibrated plan does; "" if no options
    can do that."""
    clip = _clip_option(shaping)
    return f"; give --plan {name} {clip}" if clip and names_solver(name) else ""


def _clip_option(shaping: Shaping | None) -> str:
    """Return the option that gives this shaping on the command line and in Python; "" for a shaping that has no
    option."""
    if shaping is None:
        return "--clip inf, in Python shaping=UNCLIPPED"
    if not isinstance(shaping, Clip) or shaping.low != -shaping.high:
        return ""
    return f"--clip {shaping.high:g}, in Python shaping=Clip({shaping.low}, {shaping.high})"


def _calibration_remedy(calibrated: Any, plan: Any) -> str:
    """Return the options that give a run the plan, guidance and clip of the calibration, as far as they differ; "" if
    one of them has no option.

    They name the plan, because the guidance of a plan file cannot be changed.
    """
    (name, guidance, shaping), (own, weight, shaped) = _range_settings(calibrated), _range_settings(plan)
    given = [f"--plan {plan.name if own == name else name}"]
    if weight != guidance:
        text = "1" if guidance is None else to_text(guidance)
        given += [""] if text is None else [f"--guidance {text}"]
    if shaped != shaping:
        given.append(_clip_option(shaping))
    return f"; give {' '.join(given)}" if all(given) and names_solver(name) else ""
