"""How far one tensor is from another: PSNR of samples, SQNR of network outputs, and what a mean error hides.

Samples are float arrays [B, C, H, W] (or any shape behind the batch axis) in model range [-1, 1], before clamping.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PEAK = 2.0  # the width of model range [-1, 1]
CEILING = 200.0  # dB reported for equal arrays; float32 itself resolves about 150 dB, so nothing measured reaches it

Floats = NDArray[np.floating]


def psnr(samples: Floats, references: Floats) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each sample of a batch, in dB: [B]. Equal samples give CEILING."""
    if samples.shape != references.shape:
        raise ValueError(f"PSNR compares arrays of one shape, not {samples.shape} with {references.shape}")
    error = np.square(samples.astype(np.float64) - references).reshape(len(samples), -1).mean(axis=1)
    return _decibel(np.full(len(samples), PEAK**2), error)


def sqnr(approximation: Floats, signal: Floats) -> float:
    """Signal to quantization noise ratio in dB: 10 log10(|signal|^2 / |approximation - signal|^2) over all elements."""
    energies = Energies()
    energies.add(approximation, signal)
    return energies.sqnr


class Energies:
    """SQNR of a stream of batches: the energies are summed first, so how the stream is cut does not matter."""

    def __init__(self) -> None:
        self.signal = 0.0
        self.noise = 0.0

    def add(self, approximation: Floats, signal: Floats) -> None:
        """Take one more batch, both arrays of the same shape."""
        if approximation.shape != signal.shape:
            raise ValueError(f"SQNR compares arrays of one shape, not {approximation.shape} with {signal.shape}")
        exact = signal.astype(np.float64)
        self.signal += float(np.square(exact).sum())
        self.noise += float(np.square(approximation - exact).sum())

    @property
    def sqnr(self) -> float:
        """The ratio so far, in dB."""
        return float(_decibel(np.array([self.signal]), np.array([self.noise]))[0])


@dataclass(frozen=True)
class Drift:
    """What a mean error hides: int8 that softens images, or shifts them, beside how far they are.

    PSNR rewards blur and punishes harmless changes of content, so it never stands alone. Each field is neutral
    (0, 1, 1, 0) where the samples have the references' statistics.
    """

    mean: float  # mean(samples) - mean(references), in units of model range
    energy: float  # ratio of the variances about the mean, over all elements
    detail: float  # ratio of the energies at radial frequencies above a half of Nyquist
    saturation: float  # share of elements outside [-1, 1], samples minus references


def drift(samples: Floats, references: Floats) -> Drift:
    """First and second moments of samples against references, each [B, ..., H, W]."""
    ours, theirs = samples.astype(np.float64), references.astype(np.float64)
    return Drift(
        mean=float(ours.mean() - theirs.mean()),
        energy=float(_ratio(ours.var(), theirs.var())),
        detail=float(_ratio(_high_frequency_energy(ours), _high_frequency_energy(theirs))),
        saturation=float((np.abs(ours) > 1).mean() - (np.abs(theirs) > 1).mean()),
    )


def _high_frequency_energy(images: NDArray[np.float64]) -> float:
    """Mean energy of the two trailing axes at frequencies above 1/4 cycle a pixel (a half of Nyquist)."""
    if images.ndim < 3 or min(images.shape[-2:]) < 4:
        return 0.0  # not an image: a robot's action chunk has no detail to lose
    rows, columns = (np.fft.fftfreq(size) for size in images.shape[-2:])
    high = np.hypot(rows[:, None], columns[None, :]) > 0.25
    return float(np.square(np.abs(np.fft.fft2(images)[..., high])).mean())


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference > 0 else 1.0


def _decibel(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """10 log10(signal / noise), at most CEILING; a NaN stays one, for the caller to name."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    return np.where(noise == 0, CEILING, np.minimum(ratio, CEILING))
