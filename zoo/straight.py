"""Reflow of `dit_flow`, the first stage of `one_step`: `python -m lab.train zoo/straight --work FOLDER --data PAIRS`.

The network learns u = noise - sample on the straight line between the two of a pair (Liu et al. 2023, arXiv
2209.03003). Times have the U-shaped density of 2-rectified flow++, and the loss is its pseudo-Huber form, without the
features of a perceptual network (Lee et al. 2024, arXiv 2405.20320, 3.1 and 3.2). Its weights only start `one_step`.
"""

from collections.abc import Callable
from math import exp
from pathlib import Path

import dit_flow
import torch
from pairs import read
from torch import Tensor, nn

from fewstep.models.training import Loss, Recipe

TIMESTEPS = 1000
RECIPE = Recipe(steps=800, batch=32, rate=6e-4, seed=0)
HUBER = 0.00054 * 28  # 0.00054 sqrt(d) (Song & Dhariwal 2023, arXiv 2310.14189)
STEEPNESS = 4.0  # of the density of times


def draw_times(count: int, generator: torch.Generator) -> Tensor:
    """Draw times [count] in [0, 1] of a density proportional to exp(a t) + exp(a (1 - t)), a = STEEPNESS."""
    uniform = torch.rand(count, generator=generator)
    one_sided = torch.log1p(uniform * (exp(STEEPNESS) - 1)) / STEEPNESS
    return torch.where(torch.rand(count, generator=generator) < 0.5, one_sided, 1 - one_sided)


def pseudo_huber(difference: Tensor) -> Tensor:
    """Return sqrt(|d|^2 + c^2) - c of each sample's difference [B, ...], averaged."""
    return ((difference.float().flatten(1).square().sum(1) + HUBER**2).sqrt() - HUBER).mean()


def velocity(network: nn.Module, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
    """Return the velocity [B, 1, 28, 28] at times [B] in [0, 1]."""
    out: Tensor = network(x, TIMESTEPS * time, label)
    return out.float()


def reflow(network: nn.Module, noise: Tensor, sample: Tensor, label: Tensor, generator: torch.Generator) -> Tensor:
    """Return the loss of pairs of noise and sample."""
    time = draw_times(len(noise), generator)
    at = time[:, None, None, None]
    return pseudo_huber(velocity(network, (1 - at) * sample + at * noise, time, label) - (noise - sample))


def loss_of_pairs(loss: Callable[..., Tensor], folder: Path | None, split: str, count: int) -> Loss:
    """Return the function that `fewstep.models.training` minimises: the loss of `count` random pairs of the folder."""
    if folder is None:
        raise SystemExit("name the folder of pairs: --data PAIRS")
    pairs = read(folder, split)

    def draw(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pairs[0]), (count,), generator=generator)
        return loss(network, *(part[rows] for part in pairs), generator)

    return draw


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Return the trained `dit_flow`, and its loss on the folder's pairs."""
    network = dit_flow.make()[0].train().requires_grad_(True)
    return network, loss_of_pairs(reflow, folder, split, RECIPE.batch)
