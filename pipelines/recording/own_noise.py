"""The noise that a pipeline's own method adds to an image, compared with the rule that its plans follow."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor

from fewstep.pipelines.recording.call_record import CallRecord, NoisedImage
from fewstep.pipelines.recording.stand_ins import recording_error
from fewstep.plans.configs.own_noise import OWN_NOISE

TOLERANCE = 1e-5


def record_own_noise(noised: list[NoisedImage], add_noise: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a pipeline's method add_noise(image, noise, timesteps), whose arguments and results are appended to
    `noised`."""

    @wraps(add_noise)
    def record_noise(self: Any, image: Tensor, noise: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        made = add_noise(self, image, noise, *args, **kwargs)
        noised.append(NoisedImage(image.clone(), noise.clone(), made.clone()))
        return made

    return record_noise


def check_own_noise(name: str, record: CallRecord, timesteps: int) -> None:
    """Raise UserError if x starts from an image with noise of the pipeline's own method, unless the plan's rule gives
    the same at a strength of 1.

    timesteps: the number of the scheduler's timesteps.
    """
    for noised in record.own_noised:
        rule = OWN_NOISE.get(name)
        if rule is None:
            raise recording_error(f"{name} adds noise to its image by rules of its own, unlike its scheduler")
        alpha, sigma = rule.coefficients(1.0, timesteps)
        difference = (
            alpha * noised.image + sigma * noised.noise - noised.noised
        ).abs().max() / noised.noised.abs().max()
        if not float(difference) <= TOLERANCE:
            raise recording_error(f"{name} adds other noise to its image than its rule, by {float(difference):.2g}")
