"""The floor of a body's samples, to the peak and over the signal: what is below it is not written."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fewstep.calibration.precision.sparing import LEAST_PSNR, LEAST_SNR
from fewstep.measure.rollouts.closed_loop import Course
from fewstep.measure.rollouts.metrics import PEAK
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.execute import finish

if TYPE_CHECKING:
    from fewstep.calibration.calibrated_body import CalibratedBody
    from fewstep.calibration.precision.refine import SearchResult


def headroom(course: Course) -> float | None:
    """How much less the variance of float32's samples is than the peak's square, in dB: PSNR less the signal's. None
    for samples that are one number."""
    variance = finish(course.plan, course.reference[-1:]).astype(np.float64).var()
    return float(10 * np.log10(PEAK**2 / variance)) if variance else None


def refuse_low(
    bodies: "Mapping[str, CalibratedBody]", refined: "Mapping[str, SearchResult]", failed: dict[str, UserError]
) -> None:
    """Into `failed` go the errors of bodies below the floor, but of those with a precision map, which has a bound of
    its own. UserError if no body is left."""
    for name, body in bodies.items():
        if name not in failed and name not in refined and (error := floor_error(body)):
            failed[name] = error
    if bodies.keys() <= failed.keys():
        raise next(iter(failed.values()))


def floor_error(body: "CalibratedBody") -> UserError | None:
    """The reason not to deploy a body, whose samples are far from float32's; None where they are near."""
    trial = body.trial
    if trial.tokens is not None or is_enough(trial):
        return None
    over = "" if trial.snr is None else f", the signal {trial.snr:.1f} dB above the error"
    return UserError(
        f"int8 for {body.variants.target.name} is {trial.psnr:.1f} dB from float32{over}, of {LEAST_PSNR:g} and"
        f" {LEAST_SNR:g} that are the least; {len(trial.in_float)} operations in float do not mend it",
        "ask for a quality (--quality 30dB), take --precision float32, or follow more trajectories",
    )


def is_enough(trial: Trial) -> bool:
    """Whether samples reach the floor; one that is not finite does not. A signal beyond the peak is its own."""
    if trial.snr is None:
        return trial.psnr >= LEAST_PSNR
    return max(trial.psnr, trial.snr) >= LEAST_PSNR and trial.snr >= LEAST_SNR
