"""The floor of a body's samples, to the peak and over the signal: what is below it is not written."""

from typing import TYPE_CHECKING

from fewstep.measure.nearness import LEAST_PSNR, LEAST_SNR, Nearness
from fewstep.plans.errors import UserError

DIVERGED = -20.0  # dB between samples of two seeds, which are ten times the peak apart

if TYPE_CHECKING:
    from fewstep.calibration.calibrated_body import CalibratedBody


def floor_error(body: "CalibratedBody") -> UserError | None:
    """The reason not to deploy a body, whose samples are far from float32's; None where they are near."""
    trial, target = body.trial, body.variants.target.name
    near = Nearness(trial.psnr, trial.snr, trial.unrelated)
    if trial.tokens is not None or near.is_enough:
        return None
    fix = "ask for a quality (--quality 30dB), take --precision float32, or follow more trajectories"
    if trial.unrelated is not None and trial.unrelated < DIVERGED:
        fix = "float32's own samples leave the range of the data: clip each clean prediction, with --clip 1 for [-1, 1]"
    return UserError(
        f"int8 for {target} is {near.sentence('float32')}; {LEAST_PSNR:g} and {LEAST_SNR:g} dB are the"
        f" least, and {len(trial.in_float)} operations in float do not mend it",
        fix,
    )
