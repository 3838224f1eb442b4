"""Decide from paired PSNRs whether a candidate beats the default.

The PSNR of a sample moves by some decibels by chance, because rounding is chaotic. A candidate therefore has to be
surely better by the mean of all samples and of the worse half, and surely worse by neither.
"""

import numpy as np
from numpy.typing import NDArray

WORSE = 0.5  # share of the samples whose mean counts as much as the mean of all; a smaller share of a few says less
SURE = 1.0  # standard errors of a difference
RESAMPLES = 256  # of the seeds, with replacement: the differences between them have the error of the difference

Float = NDArray[np.float64]


def beats(candidate: Float, default: Float) -> bool:
    """Whether a candidate surely beats the default, by the PSNRs [seeds] of the same samples in dB.

    A candidate with fewer seeds was behind on them, and does not. Samples that are no numbers lose to samples that are.
    """
    if len(candidate) < len(default):
        return False
    if not (np.isfinite(candidate).all() and np.isfinite(default).all()):
        return bool(np.isfinite(candidate).all())
    seeds = np.random.default_rng(0).integers(0, len(default), (RESAMPLES, len(default)))
    resampled = _parts(candidate[seeds]) - _parts(default[seeds])  # [resamples, 2]
    gains = _parts(candidate) - _parts(default)
    is_better = gains.mean() > SURE * resampled.mean(axis=1).std()
    return bool(is_better and (gains >= -resampled.std(axis=0)).all())


def is_behind(candidate: Float, default: Float) -> bool:
    """Whether a candidate is behind on the seeds that both have."""
    both = min(len(candidate), len(default))
    return bool(_parts(candidate[:both]).mean() < _parts(default[:both]).mean())


def _parts(psnr: Float) -> Float:
    """The mean of all samples, and of the worse half of them: [..., 2] from [..., seeds]."""
    worse = np.sort(psnr, axis=-1)[..., : -(-psnr.shape[-1] // round(1 / WORSE))]
    parts: Float = np.stack([psnr.mean(axis=-1), worse.mean(axis=-1)], axis=-1)
    return parts


def constant_share(errors: Float) -> float:
    """The share of the energy of errors [B, C, ...] that is one number for each channel."""
    inner = tuple(range(2, errors.ndim))
    energy = float(np.square(errors).mean())
    return float(np.square(errors.mean(axis=(0, *inner))).mean()) / energy if energy > 0 else 0.0
