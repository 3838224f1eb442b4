"""One measure of how near samples are to their references, for signals of any scale: to the peak, and over the signal.

PSNR has the peak of model range, 2. Where the signal is quiet in that range, a high PSNR may hide much noise, so the
ratio of the signal to the error stands next to it. A sample of another seed says what "near" is worth at all.
"""

from dataclasses import dataclass

import numpy as np

from fewstep.measure.rollouts.metrics import PEAK, Floats, psnr
from fewstep.runtime.bundle.manifest import Manifest

LEAST_PSNR, LEAST_SNR = 25.0, 15.0  # dB: the floor, to the peak and to the variance of the references
DIVERGED = -20.0  # dB between samples of two seeds, which are ten times the peak apart
CLIP = "--clip LIMIT"
NEAR_PSNR, NEAR_SNR = 40.0, 30.0  # dB: beyond them few people see a difference side by side


@dataclass(frozen=True)
class Nearness:
    """Figures in dB.

    psnr: the mean over samples. snr: the variance of the references over the error; None where they are one number, and
        for tokens. unrelated: the mean PSNR of a reference to the reference of another seed; None for a single seed.
    """

    psnr: float
    snr: float | None = None
    unrelated: float | None = None

    @property
    def is_enough(self) -> bool:
        """True where samples reach the floor, and none is not finite. Above the peak, SNR stands for PSNR."""
        return self.reaches(LEAST_PSNR, LEAST_SNR)

    @property
    def is_near(self) -> bool:
        """True where few people see a difference."""
        return self.reaches(NEAR_PSNR, NEAR_SNR)

    @property
    def is_diverged(self) -> bool:
        """True where the references themselves are far out of model range."""
        return self.unrelated is not None and self.unrelated < DIVERGED

    def reaches(self, least_psnr: float, least_snr: float) -> bool:
        """True from these limits on, in dB. Above the peak, SNR stands for PSNR."""
        if self.snr is None:
            return self.psnr >= least_psnr
        return max(self.psnr, self.snr) >= least_psnr and self.snr >= least_snr

    def describe(self, reference: str) -> str:
        """ "37.2 dB from float32, the signal 26.1 dB above the error; another seed's sample has 12.3 dB" """
        return f"{self.psnr:.1f} dB from {reference}{self.snr_text}{self.other_seed_text}"

    @property
    def snr_text(self) -> str:
        """ ", the signal 26.1 dB above the error", or nothing."""
        return "" if self.snr is None else f", the signal {self.snr:.1f} dB above the error"

    @property
    def other_seed_text(self) -> str:
        """ "; another seed's sample has 12.3 dB", or nothing."""
        return "" if self.unrelated is None else f"; another seed's sample has {self.unrelated:.1f} dB"


def clip_hint(manifest: Manifest) -> str:
    """The hint for a denoiser whose float32 samples leave the range of the data, which a bundle does not have. It is
    usually [-1, 1] of grey and RGB pictures, and never of latents."""
    what = f"float32's own samples leave the range of the data: clip each clean prediction, with {CLIP}"
    if manifest.autoencoder is not None:
        return f"{what}, the largest number in latents of your data"
    has_pixels = len(manifest.x_shape) == 3 and manifest.x_shape[0] in (1, 3)
    return f"{what}, the largest number in your data{', such as 1 for pictures in [-1, 1]' * has_pixels}"


class ReferencePower:
    """The scale of a stream of references [B, *x_shape], batch by batch: how the stream is cut does not matter."""

    def __init__(self) -> None:
        self._count = 0
        self._sum = self._squares = 0.0
        self._last: Floats | None = None
        self._unrelated: list[float] = []

    def add(self, references: Floats) -> None:
        """Take one more batch. Each reference is compared with the one before it."""
        if not len(references):
            return
        values = references.astype(np.float64)
        self._count += values.size
        self._sum += float(values.sum())
        self._squares += float(np.square(values).sum())
        chain = references if self._last is None else np.concatenate([self._last, references])
        if len(chain) > 1:
            self._unrelated += psnr(chain[1:], chain[:-1]).tolist()
        self._last = references[-1:]

    def nearness(self, mean: float) -> Nearness:
        """The figures of samples whose mean PSNR to these references is `mean`, in dB."""
        average = self._sum / self._count
        variance = self._squares / self._count - average**2
        is_constant = variance <= 1e-12 * max(average**2, np.finfo(float).tiny)
        snr = None if is_constant else mean + float(10 * np.log10(variance / PEAK**2))
        return Nearness(mean, snr, float(np.mean(self._unrelated)) if self._unrelated else None)
