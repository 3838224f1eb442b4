"""Pipelines that add noise to an image by a schedule of their own, not by that of their scheduler."""

from dataclasses import dataclass

import msgspec
import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan


@dataclass(frozen=True)
class OwnNoise:
    """Noise of a discrete schedule, whose betas increase linearly over `count` timesteps. A strength s adds the noise
    of timestep int(T s) + offset, where T is the number of the scheduler's timesteps."""

    beta_start: float
    beta_end: float
    count: int
    offset: int

    def coefficients(self, strength: float, timesteps: int) -> tuple[float, float]:
        """Return the factors of the image and of the noise. Raises UserError if the strength has no timestep."""
        place = int(timesteps * strength) + self.offset
        if not 0 <= place < self.count:
            what = f"strength {strength!r} is timestep {place} of the pipeline's noise, which has {self.count}"
            raise UserError(what, "give a larger one" if place < 0 else "give a smaller one")
        alphas = np.cumprod(1 - np.linspace(self.beta_start, self.beta_end, self.count))
        return float(alphas[place] ** 0.5), float((1 - alphas[place]) ** 0.5)


OWN_NOISE = {"KandinskyImg2ImgPipeline": OwnNoise(1e-4, 0.02, 1000, -2)}


def start_with_own_noise(plan: Plan, coefficients: tuple[float, float]) -> Plan:
    """Return a plan that starts from an image with other factors of the image and of its noise. The times of its steps
    are unchanged."""
    first = plan.steps[0]
    assert first.alpha is not None and first.sigma is not None  # of a plan that was compiled now
    (row,) = (index for index, each in enumerate(plan.start) if any(each))
    scale = plan.start[row][1] / first.sigma  # of x in the state
    start = [*plan.start]
    start[row] = (scale * coefficients[0], scale * coefficients[1])
    return msgspec.structs.replace(plan, start=tuple(start))
