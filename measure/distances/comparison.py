"""Finished samples compared with references, batch by batch: memory holds a figure a sample, never the samples."""

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.distances.drift import Moments, drift
from fewstep.measure.rollouts.end_quality import EndQuality, end_quality
from fewstep.measure.rollouts.metrics import has_ssim, psnr, ssim
from fewstep.measure.rollouts.nearness import Signal

Floats = NDArray[np.floating]


class PairedSamples:
    """A stream of samples [B, *x_shape] and references, row by row of the same seed."""

    def __init__(self) -> None:
        self._psnr: list[NDArray[np.float64]] = []
        self._ssim: list[NDArray[np.float64]] = []
        self._ours, self._theirs = Moments(), Moments()
        self._signal = Signal()

    def add(self, samples: Floats, references: Floats) -> None:
        """Take one more batch; an empty one changes nothing."""
        if not len(samples):
            return
        self._psnr.append(psnr(samples, references))
        if has_ssim(samples.shape[1:]):
            self._ssim.append(ssim(samples, references))
        self._ours.add(samples)
        self._theirs.add(references)
        self._signal.add(references)

    def quality(self, reference: str) -> EndQuality:
        """The figures so far, against what `reference` names. At least one sample was added."""
        similar = np.concatenate(self._ssim) if self._ssim else None
        moments = drift(self._ours, self._theirs)
        return end_quality(np.concatenate(self._psnr), reference, self._signal, moments, similar)
