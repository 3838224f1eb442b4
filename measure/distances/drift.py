"""Drift: systematic changes of samples, which a mean error hides. A body may soften, shift or saturate samples on
average.

PSNR rewards blur and punishes harmless changes of content, so it is never reported without drift.
"""

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.end_quality import Channel, Drift
from fewstep.measure.rollouts.metrics import Floats

BANDS = 8  # bands of radial frequency from 0 to half a cycle per pixel (Nyquist); the last includes the corners
LEAST_PIXELS = 4  # minimum pixels of a side; smaller samples have no meaningful spectrum


class Moments:
    """Accumulates first and second moments of samples [B, C, H, W], or of another shape after the batch axis."""

    def __init__(self) -> None:
        self.elements = 0  # per channel
        self.outside = 0  # elements of all channels outside [-1, 1]
        self.sums: NDArray[np.float64] = np.zeros(0)  # per channel
        self.squares: NDArray[np.float64] = np.zeros(0)
        self.energies: NDArray[np.float64] = np.zeros(BANDS)  # per frequency band

    def add(self, samples: Floats) -> None:
        """Add a batch. All batches must have the same shape after the batch axis."""
        values = samples.astype(np.float64)
        is_image = values.ndim == 4
        channels = values.swapaxes(0, 1) if is_image else values[None]
        channels = channels.reshape(len(channels), -1)
        if not self.elements:
            self.sums, self.squares = np.zeros(len(channels)), np.zeros(len(channels))
        self.elements += channels.shape[1]
        self.sums += channels.sum(axis=1)
        self.squares += np.square(channels).sum(axis=1)
        self.outside += int((np.abs(values) > 1).sum())
        if is_image and min(values.shape[-2:]) >= LEAST_PIXELS:  # a robot's action chunk has no detail to lose
            self.energies += _band_energies(values)

    @property
    def means(self) -> NDArray[np.float64]:
        return self.sums / self.elements

    @property
    def variances(self) -> NDArray[np.float64]:
        return np.maximum(self.squares / self.elements - self.means**2, 0)

    @property
    def mean(self) -> float:
        return float(self.means.mean())

    @property
    def variance(self) -> float:
        """The variance about the mean of all elements."""
        return float(self.variances.mean() + self.means.var())

    @property
    def saturation_share(self) -> float:
        return self.outside / (self.elements * len(self.sums))


def measure_drift(samples: Moments, references: Moments) -> Drift:
    """Return the drift of samples from references, computed from the moments of both."""
    high = slice(BANDS // 2, None)
    stds = zip(np.sqrt(samples.variances), np.sqrt(references.variances), strict=True)
    shifts = samples.means - references.means
    return Drift(
        mean=samples.mean - references.mean,
        energy=_ratio(samples.variance, references.variance),
        detail=_ratio(samples.energies[high].sum(), references.energies[high].sum()),
        saturation=samples.saturation_share - references.saturation_share,
        spectrum=tuple(map(_ratio, samples.energies, references.energies)) if references.energies.any() else (),
        channels=tuple(Channel(float(shift), _ratio(*std)) for shift, std in zip(shifts, stds, strict=True)),
    )


def _band_energies(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the energy of images [..., H, W] in each band of radial frequency (edge_i, edge_i+1], without the mean."""
    rows, columns = (np.fft.fftfreq(size) for size in images.shape[-2:])
    radius = np.hypot(rows[:, None], columns[None, :])
    bands = np.clip(np.ceil(radius * (2 * BANDS)) - 1, -1, BANDS - 1).astype(np.intp)  # -1: the mean
    energies = np.square(np.abs(np.fft.fft2(images))).reshape(-1, *radius.shape).sum(axis=0) / radius.size
    summed: NDArray[np.float64] = np.bincount(bands.ravel() + 1, energies.ravel(), BANDS + 1)[1:].astype(np.float64)
    return summed


def _ratio(value: float, reference: float) -> float:
    """Return `value` divided by `reference`, or 1 if the reference is 0."""
    return float(value / reference) if reference > 0 else 1.0
