"""Blocks as in networks that others export: norms that exporters write as InstanceNormalization, attention by Einsum,
and residual streams without a norm, to which blocks add larger and larger outputs.

The blocks are those of ADM (Dhariwal & Nichol 2021, arXiv 2105.05233), on which consistency models were trained (Song
et al. 2023, arXiv 2303.01469). The growth is a constant of a block and not trained, since outliers only result from
long training. Layers that read the stream after a norm are not affected by it.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.models.blocks import zero


class Norm(nn.Module):
    """GroupNorm as exporters write it: Reshape, InstanceNormalization, Reshape, Mul, Add."""

    def __init__(self, channels: int, groups: int = 8) -> None:
        super().__init__()
        self.groups = groups
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        shape = x.shape
        h = F.instance_norm(x.reshape(shape[0], self.groups, -1)).reshape(shape)
        return h * self.weight[:, None, None] + self.bias[:, None, None]


class Block(nn.Module):
    """A residual block [B, channels_in, H, W] -> [B, channels, H, W] that multiplies its output by `growth` before
    adding it. If the number of channels changes, the stream passes through a 1 x 1 convolution without a norm. `gated`:
    the output is a product, which has heavy tails."""

    def __init__(
        self, channels_in: int, channels: int, embedding: int, growth: float = 1.0, *, gated: bool = False
    ) -> None:
        super().__init__()
        self.growth, self.gated = growth, gated
        self.norm1 = Norm(channels_in)
        self.conv1 = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * channels)
        self.norm2 = Norm(channels)
        self.conv2 = nn.Conv2d(channels, 2 * channels if gated else channels, 3, padding=1)
        same = channels_in == channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        if self.gated:
            first, second = h.chunk(2, dim=1)
            h = first * second * second
        return self.shortcut(x) + self.growth * h


class Attention(nn.Module):
    """Attention over the pixels by Einsum, as ADM's QKVAttention, with a residual connection and the same growth."""

    def __init__(self, channels: int, heads: int = 4, growth: float = 1.0) -> None:
        super().__init__()
        self.heads, self.growth = heads, growth
        self.norm = Norm(channels)
        self.qkv, self.out = nn.Conv1d(channels, 3 * channels, 1), nn.Conv1d(channels, channels, 1)
        zero(self.out)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        qkv = self.qkv(self.norm(x).reshape(batch, channels, -1))
        q, k, v = qkv.reshape(batch, 3, self.heads, channels // self.heads, -1).unbind(1)
        scale = (channels // self.heads) ** -0.25
        weight = torch.einsum("bhct,bhcs->bhts", q * scale, k * scale).softmax(dim=-1)
        attended = torch.einsum("bhts,bhcs->bhct", weight, v).reshape(batch, channels, -1)
        return x + self.growth * self.out(attended).reshape(batch, channels, height, width)
