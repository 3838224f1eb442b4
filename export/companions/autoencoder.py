"""What converts x to pictures, a video or sound, as companions of a denoiser."""

from dataclasses import dataclass
from pathlib import Path

from fewstep.export.companions.companion import Companion


@dataclass(frozen=True)
class AutoencoderSource:
    """Decoder and encoder of an autoencoder, each as a companion, and the files that were read. Some have no encoder.

    frame_rate, sample_rate: those of a decoded video and sound, per second; None if unknown.
    """

    decoder: Companion
    encoder: Companion | None
    files: tuple[Path, ...]
    frame_rate: float | None = None
    sample_rate: int | None = None

    @property
    def ways(self) -> tuple[Companion, ...]:
        """The decoder, and the encoder if there is one."""
        return (self.decoder,) if self.encoder is None else (self.decoder, self.encoder)
