"""A diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748) on Fashion-MNIST, trained by rectified flow."""

from abc import ABC, abstractmethod

import pictures
import torch
from denoising import Trained
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Recipe

SIZE, PATCH = 28, 4
TOKENS = (SIZE // PATCH) ** 2
SPEC = Spec("dit_flow", (1, SIZE, SIZE), (pictures.LABEL,), "flow", ScheduleSpec("flow", timesteps=1000))
RECIPE = Recipe(steps=2_400, batch=32, rate=1e-3, seed=0)
DATA = pictures.FASHION


class Block(nn.Module):
    """Attention and an MLP with `hidden` features. Each follows a LayerNorm with scale and shift from time and class,
    which also gate its output (adaLN-zero)."""

    def __init__(self, width: int, heads: int, embedding: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.first, self.last = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.modulation = nn.Linear(embedding, 6 * width)
        zero(self.modulation)

    def forward(self, tokens: Tensor, embedding: Tensor) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=2)
        h = self.norm1(tokens) * (1 + scale1) + shift1
        q, k, v = self.qkv(h).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        tokens = tokens + gate1 * self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        h = self.norm2(tokens) * (1 + scale2) + shift2
        return tokens + gate2 * self.last(F.gelu(self.first(h), approximate="tanh"))


class Transformer(nn.Module, ABC):
    """Predicts the velocity eps - x0 of images x [B, C, H, W] at time [B] in [0, 1000], for labels [B] in 0..9 or
    `NULL`.

    tokens: the number of patches of an image. hidden: the number of features of a block's MLP.
    """

    def __init__(
        self, channels: int, patch: int, tokens: int, width: int, depth: int, heads: int, embedding: int, hidden: int
    ) -> None:
        super().__init__()
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_embedding = nn.Embedding(pictures.CLASSES + 1, embedding)
        self.patch = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.blocks = nn.ModuleList([Block(width, heads, embedding, hidden) for _ in range(depth)])
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation_out = nn.Linear(embedding, 2 * width)
        self.pixels = nn.Linear(width, channels * patch**2)
        zero(self.modulation_out)
        zero(self.pixels)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.label_embedding(label))
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens, embedding)
        scale, shift = self.modulation_out(embedding)[:, None].chunk(2, dim=2)
        return self.join_patches(self.pixels(self.norm_out(tokens) * (1 + scale) + shift))

    @abstractmethod
    def join_patches(self, pixels: Tensor) -> Tensor:
        """Return images from patches [B, tokens, channels * patch ** 2]."""


class Network(Transformer):
    """The network of images x [B, 1, 28, 28]."""

    def __init__(self) -> None:
        super().__init__(1, PATCH, TOKENS, width=128, depth=4, heads=4, embedding=96, hidden=256)

    def join_patches(self, pixels: Tensor) -> Tensor:
        side = SIZE // PATCH
        grid = pixels.unflatten(2, (PATCH, PATCH)).unflatten(1, (side, side)).transpose(2, 3)
        return grid.flatten(3, 4).flatten(1, 2)[:, None]


make = Trained(__file__, Network, SPEC)
