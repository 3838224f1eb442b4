"""How near samples are to their references, for signals of any scale: relative to the peak, and to the signal.

PSNR uses the peak of model range, 2. If the signal is quiet in that range, a high PSNR may hide much noise, so the
signal-to-error ratio is reported in addition. The PSNR of a sample of another seed shows the scale of "near".
"""

from dataclasses import dataclass

import numpy as np

from fewstep.measure.rollouts.metrics import PEAK, Floats, psnr
from fewstep.runtime.bundle.manifest import Manifest
from fewstep.runtime.sampling.finite_checks import clip_advice, sample_limit

LEAST_PSNR, LEAST_SNR = 25.0, 15.0  # dB: lower limits, relative to the peak and to the variance of the references
DIVERGED = -20.0  # dB between samples of two seeds; below it, differences exceed ten times the peak
NEAR_PSNR, NEAR_SNR = 40.0, 30.0  # dB: beyond them few people see a difference side by side


@dataclass(frozen=True)
class Nearness:
    """Figures in dB.

    psnr: the mean over samples. snr: the ratio of the variance of the references to the squared error; None for tokens,
        and if the references are constant. unrelated: the mean PSNR of a reference to the reference of another seed;
        None for a single seed. largest: the largest magnitude in samples and references (not in dB); None if it is
        unknown.
    """

    psnr: float
    snr: float | None = None
    unrelated: float | None = None
    largest: float | None = None

    @property
    def is_enough(self) -> bool:
        """Whether samples are above the lower limits of quality (see `reaches`). False if a value is not finite."""
        return self.reaches(LEAST_PSNR, LEAST_SNR)

    @property
    def is_near(self) -> bool:
        """True if samples reach the limits beyond which few people see a difference."""
        return self.reaches(NEAR_PSNR, NEAR_SNR)

    def reaches(self, least_psnr: float, least_snr: float) -> bool:
        """Return whether PSNR and SNR reach these limits in dB. If references are larger than the peak of PSNR, the SNR
        is larger than the PSNR, and is compared with both limits."""
        if self.snr is None:
            return self.psnr >= least_psnr
        return max(self.psnr, self.snr) >= least_psnr and self.snr >= least_snr

    def describe(self, reference: str) -> str:
        """Return "37.2 dB from float32, the signal 26.1 dB above the error; another seed's sample has 12.3 dB"."""
        return f"{self.psnr:.1f} dB from {reference}{self.snr_text}{self.other_seed_text}"

    @property
    def snr_text(self) -> str:
        """Return ", the signal 26.1 dB above the error", or ""."""
        return "" if self.snr is None else f", the signal {self.snr:.1f} dB above the error"

    @property
    def other_seed_text(self) -> str:
        """Return a clause such as "; another seed's sample has 12.3 dB", or "" if that is unknown."""
        return "" if self.unrelated is None else f"; another seed's sample has {self.unrelated:.1f} dB"


def leaves_range(near: Nearness, manifest: Manifest, is_clipped: bool) -> bool:
    """Return whether samples leave the range of the data, and no plan clips them.

    If that range is unknown, they leave it if samples of different seeds differ by more than ten times the peak.
    """
    if sample_limit(manifest) is not None:
        return beyond_data(near, manifest, is_clipped) is not None
    return not is_clipped and near.unrelated is not None and near.unrelated < DIVERGED


def clip_hint(manifest: Manifest) -> str:
    """Return the hint for a denoiser whose samples leave the range of the data."""
    return f"float32's own samples leave the range of the data: {clip_advice(manifest)}"


def beyond_data(near: Nearness, manifest: Manifest, is_clipped: bool) -> float | None:
    """Return the largest magnitude in the samples if it exceeds the range of the data although the plan does not clip.
    Otherwise return None."""
    limit = sample_limit(manifest)
    if limit is None or near.largest is None or is_clipped:
        return None
    return near.largest if near.largest > limit else None


class ReferencePower:
    """The scale of a stream of references [B, *x_shape]. It does not depend on how the stream is split into batches,
    whose shapes may differ."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = 0.0
        self._last: Floats | None = None
        self._unrelated: list[float] = []
        self._largest = 0.0

    def add(self, references: Floats, samples: Floats | None = None) -> None:
        """Add a batch. Each reference is compared with the previous one, if it has the same shape. Only the largest
        magnitude in `samples` is used."""
        if not len(references):
            return
        values = references.astype(np.float64)
        self._count += values.size
        self._sum += float(values.sum())
        self._squares += float(np.square(values).sum())
        for each in (references,) if samples is None else (references, samples):
            self._largest = max(self._largest, float(np.abs(each).max()))
        chain = references
        if self._last is not None and self._last.shape[1:] == references.shape[1:]:
            chain = np.concatenate([self._last, references])
        if len(chain) > 1:
            self._unrelated += psnr(chain[1:], chain[:-1]).tolist()
        self._last = references[-1:]

    def nearness(self, mean: float) -> Nearness:
        """Return how close samples are to these references, given their mean PSNR to them in dB: PSNR, signal-to-noise
        ratio, the PSNR of unrelated references, and the largest magnitude."""
        average = self._sum / self._count
        variance = self._squares / self._count - average**2
        is_constant = variance <= 1e-12 * max(average**2, np.finfo(float).tiny)
        snr = None if is_constant else mean + float(10 * np.log10(variance / PEAK**2))
        return Nearness(mean, snr, float(np.mean(self._unrelated)) if self._unrelated else None, self._largest)
