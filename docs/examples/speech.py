"""A speech enhancement network in the style of SGMSE+ (Richter et al. 2023, arXiv 2208.05830): a diffusion on complex
spectrograms that starts from noisy speech and ends at clean speech.

    python docs/examples/speech.py FOLDER

FOLDER receives the bundle, and a noisy recording for enhance.py. The weights are random, so the output is nearly the
input; make() would load trained ones.
"""

import sys
import wave
from math import log
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from fewstep.export import Condition, ScheduleSpec, Size, Spec, Spectrogram
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime import UserError

SOUND = Spectrogram(rate=16000, n_fft=510, hop=128, exponent=0.5, factor=0.15)
SHAPE = (2, 256, 64)  # real and imaginary part, n_fft / 2 + 1 frequencies, frames
FRAMES = Size("frames", axis=2, low=16, high=128, multiple=8)  # up to a second; the U-Net halves it three times
THETA, SIGMA_MIN, SIGMA_MAX = 1.5, 0.05, 0.5


class Network(nn.Module):
    """A small U-Net over x and y, in place of NCSN++. It estimates clean speech, and returns the corresponding
    score."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))
        self.first = nn.Conv2d(4, width, 5, stride=4, padding=2)
        self.down = nn.Conv2d(width, width, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.merge = nn.Conv2d(2 * width, width, 3, padding=1)
        self.last = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, x: Tensor, y: Tensor, t: Tensor) -> Tensor:
        fine = f.silu(self.first(torch.cat([x, y], dim=1)) + self.time(t[:, None])[:, :, None, None])
        coarse = f.silu(self.middle(f.silu(self.down(fine))))
        h = torch.cat([f.interpolate(coarse, scale_factor=2.0), fine], dim=1)
        estimate = y + 0.1 * f.interpolate(self.last(f.silu(self.merge(h))), scale_factor=4.0)
        t = t[:, None, None, None]
        alpha, growth = torch.exp(-THETA * t), log(SIGMA_MAX / SIGMA_MIN)
        variance = SIGMA_MIN**2 * (torch.exp(2 * growth * t) - alpha**2) * growth / (THETA + growth)
        score: Tensor = (alpha * estimate + (1 - alpha) * y - x) / variance
        return score


class Score(nn.Module):
    """The score for real numbers. SGMSE+ draws complex noise of variance 1, which is 1/2 in each of the two channels.
    Its sigma is therefore that of a channel times the root of 2, and its score is half of that of a channel."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        score: Tensor = 2 * self.network(x, y, time)
        return score


def make(shape: tuple[int, int, int] = SHAPE, sound: Spectrogram = SOUND) -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    y = Condition("y", "y", shape, "float32", typical=(-0.5, 0.5), follows={2: "frames"})
    half = 0.5**0.5
    schedule = ScheduleSpec("ou", theta=THETA, sigma_min=SIGMA_MIN * half, sigma_max=SIGMA_MAX * half)
    spec = Spec("speech", shape, (y,), "score", schedule, towards="y", sizes=(FRAMES,), spectrogram=sound)
    return Score(Network()), spec


def write_recording(file: Path, seconds: float = 1.5) -> None:
    """Write a 16-bit recording of a voice with some harmonics, in noise."""
    time = np.arange(int(seconds * SOUND.rate)) / SOUND.rate
    voice = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 12)) * np.sin(np.pi * 3 * time) ** 2
    noisy = 0.2 * voice + 0.05 * np.random.default_rng(0).standard_normal(len(time))
    with wave.open(str(file), "wb") as sound:
        sound.setparams((1, 2, SOUND.rate, 0, "NONE", ""))
        sound.writeframes((noisy * 32767).clip(-32768, 32767).astype("<i2").tobytes())


def main(folder: str) -> None:
    bundle, recording = Path(folder) / "bundle", Path(folder) / "noisy.wav"
    export(ExportOptions(source=f"{Path(__file__)}:make", output=bundle))
    write_recording(recording)
    print(f"{bundle} (random weights: it enhances nothing), {recording}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/speech.py FOLDER")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"speech: {error}")
