"""Predictor-corrector sampling (Song, Sohl-Dickstein, Kingma, Kumar, Ermon, Poole 2021, arXiv 2011.13456, section 4.2):
a reverse-diffusion step, and Langevin steps that bring x nearer to the law of its time.

The published corrector sizes its step by the data, 2 a (r |z| / |score|)^2 with the norms of this very noise and score:
no static plan. But score = -eps / sigma and |eps| is close to |z|, both near the root of the number of elements, so the
ratio is close to sigma, which is the *annealed* Langevin step of NCSN (Song & Ermon 2019) and a plan. What remains of
the difference is one number a time: `norm_ratios` measures it on rollouts, and `ratios` puts it into the plan.
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
    """Langevin steps (Algorithms 4 and 5), then a step of reverse diffusion (equation 46), in the order of the authors'
    code. Made for many small steps. `corrections` + 1 evaluations a step.

    The last step adds no noise, which is the papers' denoising. A step from pure noise, whose score says nothing of the
    data, is a step of `ddpm` and not corrected.

    Args:
        snr: r, the corrector's ratio of signal to noise; 0.16 as published for variance-exploding schedules.
        corrections: Langevin steps at each time; 0 leaves the predictor.
        ratios: |z| / |score| at each time but the last, from `norm_ratios`; empty for sigma.
    """
    check_not_negative("snr", snr)
    check_count("corrections", corrections, MOST_CORRECTIONS)
    if ratios and len(ratios) != len(times) - 1:
        raise UserError(f"score_sde_pc with {len(ratios)} ratios for {len(times) - 1} steps", "give one for each step")
    x = trace.start()
    for i, (s, t) in enumerate(pairwise(times)):
        kept = s.alpha / t.alpha  # of x in the forward process from t to s
        added = s.sigma**2 - kept**2 * t.sigma**2  # variance
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
    """The mean of |z| / |score| at each time, as `ratios` of `score_sde_pc` take it.

    Args:
        noises: predicted noise [B, ...] at each time, from rollouts of the plan with `ratios` left out.
        times: where they were predicted.
    """
    ratios = []
    for eps, time in zip(noises, times, strict=True):
        norms = np.linalg.norm(eps.reshape(len(eps), -1).astype(np.float64), axis=1)
        ratios.append(time.sigma * sqrt(prod(eps.shape[1:])) / float(norms.mean()))
    return tuple(ratios)
