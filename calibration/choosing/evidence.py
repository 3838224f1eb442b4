"""Decide from paired PSNRs whether a candidate beats the best so far.

The PSNR of a sample moves by some decibels by chance, because rounding is chaotic. Two gains count: the gain in the
mean of all samples, and the gain in the mean of their worse half. A candidate wins if the mean of both gains is surely
above zero, and neither is surely below zero.
"""

from math import ceil

import numpy as np
from numpy.typing import NDArray

WORSE = 0.5  # share of the samples in the worse part; with few samples, a smaller part says less
SURE = 1.0  # standard errors of a gain
RESAMPLES = 256  # of the seeds, with replacement: gains spread over them by their standard error

Float = NDArray[np.float64]


def beats(candidate: Float, best: Float) -> bool:
    """Whether a candidate surely beats the best so far, by the PSNRs [seeds] of the same samples in dB.

    A candidate with fewer seeds loses: its trial ended because it was behind. A PSNR that is not finite loses to one
    that is.
    """
    if len(candidate) < len(best):
        return False
    if not (np.isfinite(candidate).all() and np.isfinite(best).all()):
        return bool(np.isfinite(candidate).all())
    gains = _parts(candidate) - _parts(best)  # [2]
    seeds = np.random.default_rng(0).integers(0, len(best), (RESAMPLES, len(best)))
    resampled = _parts(candidate[seeds]) - _parts(best[seeds])  # [resamples, 2]
    is_better = gains.mean() > SURE * resampled.mean(axis=1).std()
    return bool(is_better and (gains >= -SURE * resampled.std(axis=0)).all())


def is_behind(candidate: Float, best: Float) -> bool:
    """Whether a candidate is behind on the seeds that both have, however little."""
    both = min(len(candidate), len(best))
    return bool(_parts(candidate[:both]).mean() < _parts(best[:both]).mean())


def _parts(psnr: Float) -> Float:
    """The mean of all samples, and the mean of their worse part: [..., 2] from [..., seeds]."""
    worse = np.sort(psnr, axis=-1)[..., : ceil(WORSE * psnr.shape[-1])]
    parts: Float = np.stack([psnr.mean(axis=-1), worse.mean(axis=-1)], axis=-1)
    return parts
