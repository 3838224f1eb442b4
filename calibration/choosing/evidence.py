"""When a way to calibrate has surely won: by the samples that were made with it, and by those of the usual one.

The usual way stays unless another one is surely better by the mean of all samples and of the worse half, and surely
worse by neither. The PSNR of a sample also moves by chance, by some decibels: rounding is chaotic.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.ranges.table import Method

WORSE = 0.5  # of the samples, whose mean counts as much as the mean of all; a smaller part of a few says less
SURE = 1.0  # standard errors of a difference
RESAMPLES = 256  # of the seeds, with replacement: differences between them have the error of the difference

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Way:
    """How a body may be calibrated: the method of its ranges, whether the mean error of its output is taken out, and
    the thin convolutions that stay in float."""

    ranges: Method
    has_bias: bool = False
    in_float: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tried:
    """A way, the PSNR of its samples [seeds] in dB, the share of the end error's energy that is one number for each
    channel, the bias that the way adds to the output, and the output at the first step of each course."""

    way: Way
    psnr: Float
    shift: float
    bias: Float | None = None
    first: tuple[NDArray[np.floating], ...] = ()

    @property
    def p5(self) -> float:
        return float(np.percentile(self.psnr, 5))

    @property
    def is_finite(self) -> bool:
        """False if a sample left the numbers on the way."""
        return bool(np.isfinite(self.psnr).all())

    @property
    def quality(self) -> float:
        """What ways are chosen by, in dB."""
        return float(_parts(self.psnr).mean())


def choose(found: Sequence[Tried]) -> int:
    """The number of the best way: the first, or one that beats it by SURE standard errors."""
    usual = found[0]
    better = [number for number, each in enumerate(found) if _beats(each, usual)]
    return max(better, key=lambda number: found[number].quality, default=0)


def _beats(other: Tried, usual: Tried) -> bool:
    if len(other.psnr) < len(usual.psnr):  # it was left on the way
        return False
    if not (other.is_finite and usual.is_finite):
        return other.is_finite
    seeds = np.random.default_rng(0).integers(0, len(usual.psnr), (RESAMPLES, len(usual.psnr)))
    drawn = _parts(other.psnr[seeds]) - _parts(usual.psnr[seeds])  # [resamples, 2]
    wins = _parts(other.psnr) - _parts(usual.psnr)
    return bool(wins.mean() > SURE * drawn.mean(axis=1).std() and (wins >= -drawn.std(axis=0)).all())


def _parts(psnr: Float) -> Float:
    """The mean of all samples, and of the worse half of them: [..., 2] from [..., seeds]."""
    worse = np.sort(psnr, axis=-1)[..., : -(-psnr.shape[-1] // round(1 / WORSE))]
    parts: Float = np.stack([psnr.mean(axis=-1), worse.mean(axis=-1)], axis=-1)
    return parts


def is_behind(psnr: Float, other: Float) -> bool:
    """On the seeds that both have."""
    both = min(len(psnr), len(other))
    return bool(_parts(psnr[:both]).mean() < _parts(other[:both]).mean())


def constant_share(ends: Float) -> float:
    """The share of the energy of errors [B, C, ...] that is one number for each channel."""
    inner = tuple(range(2, ends.ndim))
    energy = float(np.square(ends).mean())
    return float(np.square(ends.mean(axis=(0, *inner))).mean()) / energy if energy > 0 else 0.0
