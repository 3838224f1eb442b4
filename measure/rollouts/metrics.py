"""Distances between two tensors: PSNR and SSIM of samples, SQNR of network outputs.

Samples are float arrays [B, C, H, W] (or any shape after the batch axis) in model range [-1, 1], before clamping.
`drift.py` measures what these distances hide.
"""

import numpy as np
from numpy.typing import NDArray

PEAK = 2.0  # the width of model range [-1, 1]
CEILING = 200.0  # dB reported for equal arrays; float32 resolves about 150 dB, so no measured value reaches it
WINDOW = 11  # pixels of SSIM's Gaussian window, whose standard deviation is 1.5

Floats = NDArray[np.floating]


def psnr(samples: Floats, references: Floats) -> NDArray[np.float64]:
    """Return the peak signal-to-noise ratio of each sample of a batch, in dB: [B]. Equal samples give CEILING."""
    if samples.shape != references.shape:
        raise ValueError(f"PSNR compares arrays of one shape, not {samples.shape} with {references.shape}")
    error = np.square(samples.astype(np.float64) - references).reshape(len(samples), -1).mean(axis=1)
    return _decibel(np.full(len(samples), PEAK**2), error)


def has_ssim(shape: tuple[int, ...]) -> bool:
    """Return whether SSIM is defined for samples [C, H, W]: images no smaller than its window."""
    return len(shape) == 3 and min(shape[1:]) >= WINDOW


def ssim(samples: Floats, references: Floats) -> NDArray[np.float64]:
    """Return the structural similarity of each image of a batch: [B], 1 for equal images. Mean over windows and
    channels.

    Wang, Bovik, Sheikh, Simoncelli 2004, equation 13: Gaussian window of 11 pixels, K1 = 0.01, K2 = 0.03, only windows
    inside the image.
    """
    if samples.shape != references.shape or not has_ssim(samples.shape[1:]):
        raise ValueError(f"SSIM compares images of one shape and {WINDOW} pixels or more, not {samples.shape}")
    a, b = samples.astype(np.float64), references.astype(np.float64)
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    mean_a, mean_b = _smooth(a), _smooth(b)
    variances = _smooth(a * a) - mean_a**2 + _smooth(b * b) - mean_b**2
    covariance = _smooth(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variances + c2)
    similarity: NDArray[np.float64] = (luminance * structure).mean(axis=(1, 2, 3))
    return similarity


def signal_and_noise_energy(approximation: Floats, signal: Floats) -> NDArray[np.float64]:
    """Return the energies [2] of a signal and of the noise in its approximation. Those of several batches add up."""
    if approximation.shape != signal.shape:
        raise ValueError(f"SQNR compares arrays of one shape, not {approximation.shape} with {signal.shape}")
    exact = signal.astype(np.float64)
    return np.array([np.square(exact).sum(), np.square(approximation - exact).sum()])


def sqnr(energies: NDArray[np.float64]) -> float:
    """Return the signal to quantization noise ratio in dB: 10 log10(|signal|^2 / |approximation - signal|^2)."""
    return float(_decibel(*energies[:, None])[0])


def _smooth(images: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return Gaussian means [..., H - 10, W - 10] of the windows inside images [..., H, W]."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-0.5 * (offsets / 1.5) ** 2)
    weights /= weights.sum()
    for axis in (-2, -1):
        images = np.lib.stride_tricks.sliding_window_view(images, WINDOW, axis=axis) @ weights
    return images


def _decibel(signal: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return 10 log10(signal / noise), at most CEILING. NaN is kept, so that the caller can report it."""
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = 10 * np.log10(signal / noise)
    return np.where(noise == 0, CEILING, np.minimum(ratio, CEILING))
