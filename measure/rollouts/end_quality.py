"""The quality of final samples compared with references of the same seeds, as used by calibration, bounds and other
commands.

It consists of a PSNR, the values needed to interpret it (`nearness.py`), and, if a command measures them, SSIM and
drift (`distances/drift.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.metrics import Floats, psnr
from fewstep.measure.rollouts.nearness import Nearness, ReferencePower
from fewstep.measure.rollouts.quality_range import Range, mean_range, p5_range
from fewstep.plans.spec import Strict


@dataclass(frozen=True)
class Channel:
    """One channel of the samples, compared with the same channel of the references."""

    mean: float  # mean(samples) - mean(references), in units of model range
    std: float  # ratio of the standard deviations


@dataclass(frozen=True)
class Drift:
    """Statistics of samples relative to references. Without drift, differences are 0 and ratios are 1."""

    mean: float  # mean(samples) - mean(references), in units of model range
    energy: float  # ratio of the variances about the mean, over all elements
    detail: float  # ratio of the energies at radial frequencies above half of Nyquist
    saturation: float  # share of elements outside [-1, 1], samples minus references
    spectrum: tuple[float, ...] = ()  # ratio of the energies in each of BANDS bands, from coarse to fine
    channels: tuple[Channel, ...] = ()


class Similarity(Strict, frozen=True):
    """SSIM of finished samples over the same seeds as their PSNR; 1 for equal images."""

    mean: float
    p5: float
    worst: float


class EndQuality(Strict, frozen=True):
    """PSNR of finished samples over held-out seeds 0 .. len(values) - 1, in dB, before clamping. For tokens, the ratio
    of the variance of log-probabilities to their squared error, in dB, at the states of float32's run."""

    reference: str  # what the samples were compared with, as text
    mean: float
    p5: float
    worst: float
    standard_error: float  # standard error of the mean
    values: tuple[float, ...]  # PSNR of each seed
    drift: Drift | None  # None: tokens, or not measured
    ssim: Similarity | None = None  # None: samples are not images, or are smaller than its window
    snr: float | None = None  # as in `Nearness`; None also in results of earlier versions
    unrelated: float | None = None
    largest: float | None = None

    @property
    def seeds(self) -> int:
        return len(self.values)

    @property
    def mean_range(self) -> Range | None:
        """The range of the mean on other seeds; None for few seeds."""
        return mean_range(self.values)

    @property
    def p5_range(self) -> Range | None:
        """The range of the 5th percentile on other seeds; None for few seeds."""
        return p5_range(self.values)

    @property
    def nearness(self) -> Nearness:
        return Nearness(self.mean, self.snr, self.unrelated, self.largest)


def end_quality(
    values: NDArray[np.float64],
    reference: str,
    signal: ReferencePower | None = None,
    drift: Drift | None = None,
    ssim: NDArray[np.float64] | None = None,
) -> EndQuality:
    """Summarize PSNR values [seeds] against the reference of that name, and SSIM values [seeds] if given. `signal` is
    the scale of the references."""
    nearness = Nearness(float(values.mean())) if signal is None else signal.nearness(float(values.mean()))
    spread = float(values.std(ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return EndQuality(
        reference=reference,
        mean=nearness.psnr,
        p5=float(np.percentile(values, 5)),
        worst=float(values.min()),
        standard_error=spread,
        values=tuple(values.tolist()),
        drift=drift,
        ssim=None if ssim is None else Similarity(float(ssim.mean()), float(np.percentile(ssim, 5)), float(ssim.min())),
        snr=nearness.snr,
        unrelated=nearness.unrelated,
        largest=nearness.largest,
    )


def compare_samples(batches: Sequence[tuple[Floats, Floats]], name: str) -> EndQuality:
    """Return the quality of samples [B, *x_shape] against references of this name, including their scale. Each of the
    `batches` is a pair of samples and references of one size."""
    signal, values = ReferencePower(), list[NDArray[np.float64]]()
    for samples, references in batches:
        signal.add(references, samples)
        values.append(psnr(samples, references))
    return end_quality(np.concatenate(values), name, signal)
