"""Denoisers of sound, whose x is a complex spectrogram. `spectrogram.py` implements the transform."""

from typing import ClassVar

from fewstep.runtime.kinds.kind import DescriptionProtocol, Kind


class Spectrogram(Kind, frozen=True):
    """The transform of sound to x [2, bins, frames] and back; the defaults are those of SGMSE+.

    rate: the sample rate in Hz.
    n_fft: samples of a frame.
    hop: samples between the starts of frames.
    exponent, factor: amplitudes |c| become factor |c|^exponent.
    """

    FIX: ClassVar = "give Spectrogram(rate, n_fft, hop, exponent, factor) of samples [2, bins, frames]"

    rate: int = 16000
    n_fft: int = 510
    hop: int = 128
    exponent: float = 0.5
    factor: float = 0.15

    @property
    def bins(self) -> int:
        """Frequencies from 0 to half the rate."""
        return self.n_fft // 2 + 1

    def problem(self, of: DescriptionProtocol) -> str | None:
        if not 2 <= 2 * self.hop <= self.n_fft:  # with less overlap, Hann windows would give some samples no weight
            return f"hop {self.hop} is not in 1 .. n_fft / 2, {self.n_fft // 2}"
        if not (0 < self.exponent <= 1 and 0 < self.factor < 1e6):
            return f"exponent {self.exponent:g} or factor {self.factor:g} is out of range: (0, 1] and (0, 1e6)"
        if self.rate < 1:
            return f"rate {self.rate} is not positive"
        if len(of.x_shape) != 3 or of.x_shape[:2] != (2, self.bins):
            return f"samples {list(of.x_shape)} are not [2, {self.bins}, frames]"
        return None

    def describe(self, of: DescriptionProtocol) -> str:
        return f"sound: at {self.rate} Hz, in frames of {self.n_fft} samples, each {self.hop} after the one before"
