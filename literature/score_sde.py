"""Predictor-corrector sampling (Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021, arXiv 2011.13456, section 4.2):
a reverse-diffusion step, and Langevin steps that bring the distribution of x closer to that of its time.

The published corrector computes the size of its step from the data, 2 a (r |z| / |score|)^2 with the norms of the
current noise and score, which a static plan cannot do. But score = -eps / sigma, and |eps| is close to |z|, since both
are close to the root of the number of elements. The ratio is therefore close to sigma, which gives the *annealed*
Langevin step of NCSN (Song & Ermon 2019), and a static plan. The remaining difference is one number for each time:
`norm_ratios` measures it on rollouts, and `ratios` puts it into the plan.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.parameters import check_count, check_not_negative
from fewstep.plans.solvers.sgmse import MOST_CORRECTIONS, score
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Song et al. 2021, arXiv 2011.13456", order=1, rows=1)
def score_sde_pc(
    trace: Tracer,
    times: Sequence[Time],
    *,
    snr: float = 0.16,
    corrections: int = 1,
    ratios: tuple[float, ...] = (),
) -> Lin:
    """Sample with Langevin steps (Algorithms 4 and 5) before each step of reverse diffusion (equation 46), as in the
    authors' code. It needs many small steps, of `corrections` + 1 evaluations each.

    The last step adds no noise, as in the papers' denoising step. A step from pure noise, where the score contains no
    information about the data, is a step of `ddpm` without corrections.

    Args:
        snr: r, the corrector's signal-to-noise ratio; published for variance-exploding schedules as 0.16.
        corrections: number of Langevin steps at each time; 0 uses only the predictor.
        ratios: |z| / |score| at each time but the last, from `norm_ratios`. If empty, sigma is used.
    """
    check_not_negative("snr", snr)
    check_count("corrections", corrections, MOST_CORRECTIONS)
    if ratios and len(ratios) != len(times) - 1:
        raise UserError(
            f"score_sde_pc was given {len(ratios)} ratios for {len(times) - 1} steps", "give one for each step"
        )
    x = trace.start()
    for i, (s, t) in enumerate(pairwise(times)):
        kept = s.alpha / t.alpha  # factor of x in the forward process from t to s
        added = s.sigma**2 - kept**2 * t.sigma**2  # variance of the noise
        if s.alpha == 0:
            x, x0 = trace.denoise(x, s)
            x = t.alpha * x0
            added = t.sigma**2
        else:
            # a is 1 for variance-exploding schedules and 1 - beta for variance-preserving ones
            step = 2 * kept**2 * (snr * (ratios[i] if ratios else s.sigma)) ** 2
            for _ in range(corrections):
                x, x0 = trace.denoise(x, s)
                x = x + step * score(x, x0, s) + sqrt(2 * step) * trace.noise()
            x, x0 = trace.denoise(x, s)
            x = (2 - kept) * x + added * score(x, x0, s)
        if t.sigma > 0:
            x = x + sqrt(added) * trace.noise()
    return x


def norm_ratios(noises: Sequence[NDArray[np.floating]], times: Sequence[Time]) -> tuple[float, ...]:
    """Return the mean of |z| / |score| at each time, as the `ratios` of `score_sde_pc`.

    Args:
        noises: predicted noise [B, ...] at each time, from rollouts of the plan without `ratios`.
        times: the times of these predictions.
    """
    ratios = []
    for eps, time in zip(noises, times, strict=True):
        norms = np.linalg.norm(eps.reshape(len(eps), -1).astype(np.float64), axis=1)
        ratios.append(time.sigma * sqrt(prod(eps.shape[1:])) / float(norms.mean()))
    return tuple(ratios)
