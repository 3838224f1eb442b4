"""Sound as waveforms, whose standard deviation is an eighth of their range: the 1-D U-Net of v-diffusion, in the style
of audio-diffusion (Schneider 2023, arXiv 2301.13267), on generated voices (`voices.py`)."""

from pathlib import Path

import numpy as np
import torch
from denoising import Batch, Data, Draw, Trained
from torch import Tensor, nn
from torch.nn import functional as F
from voices import voices

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Recipe

RATE, LENGTH, PATCH = 4000, 1024, 4  # samples per second, per wave, and per position of the network
LOUDER = 1.3  # factor over `voices`, whose standard deviation is 0.1
SPEC = Spec("quiet_waves", (1, LENGTH), (), "v", ScheduleSpec("cosine", timesteps=1000))
RECIPE = Recipe(steps=2_000, batch=32, rate=1e-3, seed=0)
POOL = {"train": (4_096, 0), "test": (512, 1)}  # number of waves of a split, and their seed


def _open(folder: Path | None, split: str) -> Draw:
    """Return a function that draws waves [B, 1, 1024] with standard deviation 0.13. No folder is read."""
    count, seed = POOL[split]
    waves = LOUDER * voices(count, LENGTH, RATE, np.random.default_rng(seed))
    known = torch.from_numpy(waves.astype(np.float32))[:, None]

    def drawn(count: int, generator: torch.Generator) -> Batch:
        return Batch(known[torch.randint(len(known), (count,), generator=generator)], ())

    return drawn


class Layer(nn.Module):
    """A residual block in one dimension, which ends in a gate. If the number of channels changes, the stream passes
    through a convolution without a norm."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels_in), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv1d(channels_in, channels, 5, padding=2)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.conv2 = nn.Conv1d(channels, 2 * channels, 5, padding=2)
        same = channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv1d(channels_in, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None].chunk(2, dim=1)
        return self.shortcut(x) + F.glu(self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift)), dim=1)


class Network(nn.Module):
    """Predicts v from x [B, 1, 1024] at timestep time [B] in [0, 1000)."""

    def __init__(self, channels: tuple[int, int, int] = (32, 64, 96), embedding: int = 96) -> None:
        super().__init__()
        fine, middle, coarse = channels
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.conv_in = nn.Conv1d(PATCH, fine, 5, padding=2)
        self.down1, self.down2 = Layer(fine, fine, embedding), Layer(middle, middle, embedding)
        self.narrow1 = nn.Conv1d(fine, middle, 4, stride=2, padding=1)
        self.narrow2 = nn.Conv1d(middle, coarse, 4, stride=2, padding=1)
        self.deep1, self.deep2 = Layer(coarse, coarse, embedding), Layer(coarse, coarse, embedding)
        self.up2, self.up1 = Layer(coarse + middle, middle, embedding), Layer(middle + fine, fine, embedding)
        self.norm_out = nn.GroupNorm(8, fine)
        self.conv_out = nn.Conv1d(fine, PATCH, 5, padding=2)
        zero(self.conv_out)  # type: ignore[arg-type]

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)))
        folded = x.reshape(x.shape[0], LENGTH // PATCH, PATCH).transpose(1, 2)
        h1 = self.down1(self.conv_in(folded), embedding)
        h2 = self.down2(self.narrow1(h1), embedding)
        h = self.deep2(self.deep1(self.narrow2(h2), embedding), embedding)
        h = self.up2(torch.cat([F.interpolate(h, scale_factor=2.0), h2], dim=1), embedding)
        h = self.up1(torch.cat([F.interpolate(h, scale_factor=2.0), h1], dim=1), embedding)
        return self.conv_out(F.silu(self.norm_out(h))).transpose(1, 2).reshape(x.shape)


def show(samples: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
    """Return images [N, 1, 64, 128] of waves, with 8 samples in a column. Large values are bright and far from the
    middle row."""
    rows = torch.linspace(1, -1, 64)[:, None]
    peaks = samples.reshape(len(samples), 1, 1, 128, 8).abs().amax(dim=4)
    return torch.where(rows.abs() <= peaks, 1.0, -1.0)


DATA = Data("4 096 voices as waves of deviation 0.13, made by code (`voices.py`)", _open)


make = Trained(__file__, Network, SPEC)
