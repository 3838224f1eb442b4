"""The denoiser of DDPM on CIFAR-10 (Ho, Jain, Abbeel 2020, arXiv 2006.11239, appendix B), 35.7 M parameters, untrained.

Speed depends on shapes, not on what the weights learnt, so they are random: its samples mean nothing.
`fewstep export benchmarks/races/ddpm_cifar10.py:make -o ddpm` makes its bundle.
"""

import math
from collections.abc import Iterable, Iterator
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec

IMAGE_SHAPE = (3, 32, 32)
CHANNELS = 128
MULTIPLIERS = (1, 2, 2, 2)  # at 32x32, 16x16, 8x8 and 4x4
BLOCKS = 2  # per resolution on the way down, one more on the way up
ATTENTION_LEVEL = 1  # 16x16
EMBEDDING = 4 * CHANNELS


def normalization(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """GroupNorm, swish, conv, the time added; GroupNorm, swish, conv; plus the input."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.norm1 = normalization(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time = nn.Linear(EMBEDDING, channels_out)
        self.norm2 = normalization(channels_out)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(embedding))[:, :, None, None]
        changed: Tensor = self.conv2(F.silu(self.norm2(h)))
        kept: Tensor = self.shortcut(x)
        return kept + changed


class Attention(nn.Module):
    """One head over the pixels, with a residual; projections are 1x1 convolutions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = normalization(channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        q, k, v = (project(h).flatten(2).transpose(1, 2) for project in (self.q, self.k, self.v))  # [B, H*W, C]
        attended = F.scaled_dot_product_attention(q, k, v)
        changed: Tensor = self.out(attended.transpose(1, 2).reshape(x.shape))
        return x + changed


class Level(nn.Module):
    """Residual blocks at one resolution, each followed by attention where there is any."""

    def __init__(self, sizes: list[tuple[int, int]], attends: bool) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(ResidualBlock(a, b) for a, b in sizes)
        self.attentions = nn.ModuleList(Attention(b) if attends else nn.Identity() for _, b in sizes)

    def layers(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        return zip(self.blocks, self.attentions, strict=True)


class DDPM(nn.Module):
    """Predicts eps from `x [B, 3, 32, 32]` and the timestep `time [B]` in [0, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Sequential(nn.Linear(CHANNELS, EMBEDDING), nn.SiLU(), nn.Linear(EMBEDDING, EMBEDDING))
        self.conv_in = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.down, self.shrink = nn.ModuleList(), nn.ModuleList()
        skips, channels = [CHANNELS], CHANNELS
        for level, multiplier in enumerate(MULTIPLIERS):
            sizes = []
            for _ in range(BLOCKS):
                sizes.append((channels, CHANNELS * multiplier))
                channels = CHANNELS * multiplier
                skips.append(channels)
            self.down.append(Level(sizes, level == ATTENTION_LEVEL))
            if level < len(MULTIPLIERS) - 1:
                self.shrink.append(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
                skips.append(channels)
        self.middle = nn.ModuleList([ResidualBlock(channels, channels), ResidualBlock(channels, channels)])
        self.middle_attention = Attention(channels)
        self.up, self.grow = nn.ModuleList(), nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(MULTIPLIERS))):
            sizes = []
            for _ in range(BLOCKS + 1):
                sizes.append((channels + skips.pop(), CHANNELS * multiplier))
                channels = CHANNELS * multiplier
            self.up.append(Level(sizes, level == ATTENTION_LEVEL))
            if level:
                self.grow.append(nn.Conv2d(channels, channels, 3, padding=1))
        self.norm_out = normalization(channels)
        self.conv_out = nn.Conv2d(channels, 3, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        embedding = self.embed(time_features(time))
        h = self.conv_in(x)
        skips = [h]
        for index, level in enumerate(cast(Iterable[Level], self.down)):
            for block, attention in level.layers():
                h = attention(block(h, embedding))
                skips.append(h)
            if index < len(self.shrink):
                h = self.shrink[index](h)
                skips.append(h)
        h = self.middle[1](self.middle_attention(self.middle[0](h, embedding)), embedding)
        for index, level in enumerate(cast(Iterable[Level], self.up)):
            for block, attention in level.layers():
                h = attention(block(torch.cat([h, skips.pop()], dim=1), embedding))
            if index < len(self.grow):
                h = self.grow[index](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        output: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return output


def time_features(time: Tensor) -> Tensor:
    """Sinusoidal features [B, CHANNELS] of timesteps [B], frequencies from 1 to 1 / 10 000."""
    half = CHANNELS // 2
    frequencies = torch.exp(torch.arange(half) * (-math.log(10_000) / (half - 1)))
    angles = time[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def make() -> tuple[DDPM, Spec]:
    """The network with fixed random weights, as a source of export."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return DDPM(), Spec("ddpm_cifar10", IMAGE_SHAPE, (), "epsilon", ScheduleSpec("linear"))
