"""The step sizes of a Langevin corrector (Song et al. 2021, arXiv 2011.13456), measured on rollouts."""

from collections.abc import Sequence
from math import prod, sqrt

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.schedule import Time


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
