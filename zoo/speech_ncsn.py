"""Speech enhancement in the style of SGMSE+ (Richter et al. 2023, arXiv 2208.05830) on generated voices and noises. The
U-Net predicts a score on the spectrogram of a noisy voice, which it takes besides x at each step."""

from math import log
from pathlib import Path

import numpy as np
import torch
from denoising import Batch, Data, Draw, Trained
from torch import Tensor, nn
from torch.nn import functional as F
from voices import noises, voices

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.blocks import ResidualBlock, SelfAttention, time_features, upsample, zero
from fewstep.models.training import Recipe
from fewstep.runtime import spectrogram
from fewstep.runtime.bundle.manifest import Spectrogram

SOUND = Spectrogram(rate=8000, n_fft=126, hop=42, exponent=0.5, factor=0.3)
FRAMES = 32
SHAPE = (2, SOUND.bins, FRAMES)
THETA, SIGMA_MIN, SIGMA_MAX = 1.5, 0.035, 0.35
Y = Condition("y", input="y", shape=SHAPE, dtype="float32", typical=(-0.5, 0.5))
SPEC = Spec(
    "speech_ncsn",
    SHAPE,
    (Y,),
    "score",
    ScheduleSpec("ou", theta=THETA, sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX),
    towards="y",
    spectrogram=SOUND,
)
RECIPE = Recipe(steps=900, batch=16, rate=1e-3, seed=0)
UNSEEN = 1_000  # least seed of recordings that are in no split
POOL = {"train": (4_096, 0), "test": (512, 1)}  # number of recordings of a split, and their seed


def _open(folder: Path | None, split: str) -> Draw:
    """Return a function that draws spectrograms [B, 2, 64, 32] of clean voices, and of the same voices with noise. No
    folder is read."""
    clean, noisy = (torch.from_numpy(recording) for recording in recordings(*POOL[split]))

    def drawn(count: int, generator: torch.Generator) -> Batch:
        rows = torch.randint(len(clean), (count,), generator=generator)
        return Batch(clean[rows], (noisy[rows],))

    return drawn


def rows(count: int, seed: int) -> dict[str, np.ndarray]:
    """Return noisy recordings that are in neither split."""
    return {"y": recordings(count, UNSEEN + seed)[1]}


def recordings(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return clean and noisy spectrograms float32 [count, 2, 64, 32]. The largest amplitude of a noisy recording is
    1."""
    rng = np.random.default_rng(seed)
    clean = voices(count, spectrogram.sample_count(SOUND, FRAMES), SOUND.rate, rng)
    noisy = clean + noises(clean, SOUND.rate, rng)
    loudest = np.abs(noisy).max(axis=1, keepdims=True)
    return spectrogram.encode(SOUND, clean / loudest), spectrogram.encode(SOUND, noisy / loudest)


def show(samples: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
    """Return amplitudes [N, 1, 128, 32] with the noisy recording above and the sample below it. Low frequencies are at
    the bottom."""
    both = torch.cat([each.flip(2).norm(dim=1, keepdim=True) for each in (conditions[0], samples)], dim=2)
    return 2 * both - 1


class Network(nn.Module):
    """Predicts the score of x [B, 2, 64, 32] at time [B] in (0, 1], given y of the same shape: noise / -sigma."""

    def __init__(self, channels: tuple[int, int, int] = (16, 32, 64), embedding: int = 128) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv2d(2 * SHAPE[0], fine, 3, padding=1)
        self.down1 = ResidualBlock(fine, fine, embedding)
        self.narrow1 = nn.Conv2d(fine, middle, 3, stride=2, padding=1)
        self.down2 = ResidualBlock(middle, middle, embedding)
        self.narrow2 = nn.Conv2d(middle, coarse, 3, stride=2, padding=1)
        self.down3 = ResidualBlock(coarse, coarse, embedding)
        self.attention = SelfAttention(coarse)
        self.up3 = ResidualBlock(2 * coarse, coarse, embedding)
        self.widen2 = nn.Conv2d(coarse, middle, 3, padding=1)
        self.up2 = ResidualBlock(2 * middle, middle, embedding)
        self.widen1 = nn.Conv2d(middle, fine, 3, padding=1)
        self.up1 = ResidualBlock(2 * fine, fine, embedding)
        self.norm_out = nn.GroupNorm(8, fine)
        self.conv_out = nn.Conv2d(fine, SHAPE[0], 3, padding=1)
        zero(self.conv_out)

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(1000 * time, self.features)))
        h1 = self.down1(self.conv_in(torch.cat([x, y], dim=1)), embedding)
        h2 = self.down2(self.narrow1(h1), embedding)
        h3 = self.down3(self.narrow2(h2), embedding)
        h = self.up3(torch.cat([self.attention(h3), h3], dim=1), embedding)
        h = self.up2(torch.cat([self.widen2(upsample(h)), h2], dim=1), embedding)
        h = self.up1(torch.cat([self.widen1(upsample(h)), h1], dim=1), embedding)
        return self.conv_out(F.silu(self.norm_out(h))) / sigma(time)[:, None, None, None]


def sigma(time: Tensor) -> Tensor:
    """Return the standard deviation of the noise at times [B], as `fewstep.plans.paths.ou`, in torch."""
    growth = log(SIGMA_MAX / SIGMA_MIN)
    grown = SIGMA_MIN**2 * torch.exp(2 * growth * time)
    return (grown * growth / (THETA + growth) * -torch.expm1(-2 * (THETA + growth) * time)).sqrt()


DATA = Data("4 096 voices with noises, made by code (`voices.py`)", _open)


make = Trained(__file__, Network, SPEC)
