"""Random pieces of recorded speech at 16 kHz: the prompts of Asterisk in English, Spanish and French."""

from pathlib import Path

import numpy as np
import torch
from denoising import Batch, Data, Draw
from torch import Tensor

from fewstep.export import Condition
from fewstep.models.training import drop_labels
from fewstep.plans.errors import UserError
from fewstep.runtime import spectrogram
from fewstep.runtime.kinds.sound import Spectrogram

FOLDER = Path("/usr/share/asterisk/sounds")  # Debian packages asterisk-core-sounds-{en,es,fr}-g722
LANGUAGES = ("en_US_f_Allison", "es_MX_f_Allison", "fr_CA_f_June")  # folders of the packages: language and speaker
NULL = len(LANGUAGES)  # the label that means "no condition"
LANGUAGE = Condition("language", input="language", null=NULL, low=0, high=NULL - 1)
SOUND = Spectrogram(rate=16000, n_fft=510, hop=255, exponent=0.3, factor=1.5)
FRAMES = 64
LENGTH = spectrogram.sample_count(SOUND, FRAMES)  # samples of a piece
HELD_OUT = 12  # the first recording of each 12 is in the test split
PER_SECOND = 8000  # bytes of a G.722 recording of 64 kbit/s


def read_recordings(folder: Path | None, split: str) -> list[list[np.ndarray]]:
    """Return the recordings int16 [samples] of each language that are no shorter than a piece. A folder of None means
    the folder of Debian's packages. Raises UserError if one is missing or the decoder is not installed."""
    try:
        from G722 import G722
    except ImportError as error:
        raise UserError("the recordings are G.722, and no decoder is installed", "pip install G722") from error
    recordings = []
    for language in LANGUAGES:
        files = sorted(((folder or FOLDER) / language).rglob("*.g722"))
        if not files:
            name = f"asterisk-core-sounds-{language[:2]}-g722"
            raise UserError(f"there is no folder {language} in {folder or FOLDER}", f"apt install {name}, or --data")
        spoken = [file for file in files if "silence" not in file.parts]
        chosen = [file for number, file in enumerate(spoken) if (number % HELD_OUT == 0) == (split == "test")]
        long = [file for file in chosen if file.stat().st_size / PER_SECOND > LENGTH / SOUND.rate]
        recordings.append([np.asarray(G722(SOUND.rate, 64_000).decode(file.read_bytes())) for file in long])
    return recordings


def _open(folder: Path | None, split: str) -> Draw:
    """Return a function that draws spectrograms [B, 2, 256, 64] of pieces, from all languages equally often and from
    all their samples, and the languages."""
    starts, waves, before = [], [], 0
    for recordings in read_recordings(folder, split):
        own = []
        for recording in recordings:
            own.append(before + torch.arange(len(recording) - LENGTH + 1))
            before += len(recording)
        starts.append(torch.cat(own))
        waves.extend(map(torch.from_numpy, recordings))
    joined, piece = torch.cat(waves), torch.arange(LENGTH)

    def draw(count: int, generator: torch.Generator) -> Batch:
        languages = torch.randint(len(starts), (count,), generator=generator)
        shares = torch.rand(count, generator=generator, dtype=torch.float64).tolist()
        rows = [starts[n][int(share * len(starts[n]))] for n, share in zip(languages.tolist(), shares, strict=True)]
        wave = joined[torch.stack(rows)[:, None] + piece].float() / 32768
        return Batch(encode(wave), (drop_labels(languages, NULL, generator),))

    return draw


def encode(wave: Tensor) -> Tensor:
    """Return compressed spectrograms [B, 2, 256, 64] of waves [B, samples], as `spectrogram.encode`, in torch."""
    window = torch.hann_window(SOUND.n_fft)
    c = torch.stft(wave, SOUND.n_fft, SOUND.hop, window=window, return_complex=True)
    amplitude = c.abs().clamp(min=1e-12)
    return torch.view_as_real(SOUND.factor * c * amplitude ** (SOUND.exponent - 1)).movedim(-1, 1)


DATA = Data(
    "81 minutes of prompts in English, Spanish (Allison Smith) and French (June Wallack), at 16 kHz, from the Debian"
    " packages `asterisk-core-sounds-en-g722`, `-es-g722` and `-fr-g722` 1.6.1; licence: CC BY-SA 3.0. One of 12"
    " recordings is held out. None of them is part of this project",
    _open,
)
