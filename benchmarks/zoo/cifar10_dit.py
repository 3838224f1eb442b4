"""A diffusion transformer (Peebles & Xie 2023, arXiv 2212.09748) of 7.6 M weights on CIFAR-10, trained by rectified
flow (Liu et al. 2023, arXiv 2209.03003).
"""

import pictures
import torch
from denoising import Draw, Trained
from dit_flow import Block
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features, zero
from fewstep.models.training import Loss, Recipe

CHANNELS, SIZE, PATCH = 3, 32, 2
SIDE = SIZE // PATCH  # tokens along each axis
SPEC = Spec("cifar10_dit", (CHANNELS, SIZE, SIZE), (pictures.LABEL,), "flow", ScheduleSpec("flow", timesteps=1000))
RECIPE = Recipe(steps=24_000, batch=512, rate=8e-4, seed=0)
DATA = pictures.CIFAR
TRAINS_ON_CUDA = True


class Network(nn.Module):
    """The velocity eps - x0 of x [B, 3, 32, 32] at time [B] in [0, 1000], for labels [B] in 0..9 or `NULL`."""

    def __init__(self, width: int = 256, depth: int = 8, heads: int = 4, embedding: int = 96) -> None:
        super().__init__()
        self.features = embedding
        self.time_mlp = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.label_embedding = nn.Embedding(pictures.CLASSES + 1, embedding)
        self.patch = nn.Conv2d(CHANNELS, width, PATCH, stride=PATCH)
        self.position = nn.Parameter(0.02 * torch.randn(1, SIDE**2, width))
        self.blocks = nn.ModuleList([Block(width, heads, embedding, hidden=4 * width) for _ in range(depth)])
        self.norm_out = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation_out = nn.Linear(embedding, 2 * width)
        self.pixels = nn.Linear(width, CHANNELS * PATCH**2)
        zero(self.modulation_out)
        zero(self.pixels)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        embedding = F.silu(self.time_mlp(time_features(time, self.features)) + self.label_embedding(label))
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens, embedding)
        scale, shift = self.modulation_out(embedding)[:, None].chunk(2, dim=2)
        return join_patches(self.pixels(self.norm_out(tokens) * (1 + scale) + shift))


def join_patches(pixels: Tensor) -> Tensor:
    """Images [B, 3, 32, 32] of patches [B, 256, 12], each in the order (channel, row, column)."""
    grid = pixels.unflatten(2, (CHANNELS, PATCH, PATCH)).unflatten(1, (SIDE, SIDE))
    return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


def draw_shares(count: int, generator: torch.Generator) -> Tensor:
    """Shares of noise [B] in (0, 1): half of them logit-normal (Esser et al. 2024, arXiv 2403.03206), where most is to
    be learned, and half uniform, so that the ends, which few-step samplers evaluate, are trained too."""
    normal = torch.randn(count, generator=generator, device=generator.device).sigmoid()
    uniform = torch.rand(count, generator=generator, device=generator.device)
    return torch.where(torch.arange(count, device=generator.device) % 2 == 0, normal, uniform)


def loss(draw: Draw, count: int) -> Loss:
    """The mean squared error of the velocity, computed on the generator's device."""

    def velocity_loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        t = draw_shares(count, generator)
        noise = torch.randn(batch.x0.shape, generator=generator, device=generator.device)
        share = t[:, None, None, None]
        velocity = network((1 - share) * batch.x0 + share * noise, 1000 * t, *batch.conditions)
        return (velocity.float() - (noise - batch.x0)).square().mean()

    return velocity_loss


make = Trained(__file__, Network, SPEC)
