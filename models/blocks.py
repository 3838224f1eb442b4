"""What the reference UNets are made of: residual blocks with adaptive normalisation, attention, time features.

Residual blocks and adaptive group normalisation as in Dhariwal & Nichol 2021 (arXiv 2105.05233, "ADM"), with one
change for deployment: the normalisation that receives scale and shift has no affine of its own, so conditioning costs
nothing in the body beyond the Mul and Add every normalisation ends with, and all of it leaves with the prologue.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, conv; adaptive GroupNorm, SiLU, conv; plus the input (through a 1x1 conv if channels differ)."""

    def __init__(self, channels_in: int, channels_out: int, embedding: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(8, channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels_out)
        self.norm2 = nn.GroupNorm(8, channels_out, affine=False)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)
        zero(self.conv2)  # every block starts as the identity

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.norm2(h) * (1 + scale) + shift
        return self.shortcut(x) + self.conv2(F.silu(h))


class SelfAttention(nn.Module):
    """Multi-head attention over the pixels, with a residual."""

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(8, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        zero(self.out)

    def forward(self, x: Tensor) -> Tensor:
        _, channels, height, width = x.shape
        tokens = self.norm(x).flatten(2).transpose(1, 2)  # [B, H*W, C]
        q, k, v = self.qkv(tokens).unflatten(2, (3, self.heads, channels // self.heads)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return x + self.out(attended).transpose(1, 2).unflatten(2, (height, width))


def time_features(time: Tensor, dim: int) -> Tensor:
    """Sinusoidal features [B, dim] of times [B] in [0, 1000] (Vaswani et al. 2017, as DDPM uses them)."""
    frequencies = torch.exp(torch.arange(dim // 2, device=time.device) * (-math.log(10_000) / (dim // 2)))
    angles = time.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def upsample(x: Tensor) -> Tensor:
    """Twice the height and width, each pixel repeated."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


def zero(layer: nn.Conv2d | nn.Linear) -> None:
    """Start a layer at zero output."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
