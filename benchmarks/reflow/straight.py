"""Reflow of `zoo/dit_flow`, the student's first stage: `python -m benchmarks.train reflow/straight`.

The network learns u = noise - sample on the straight line between a pair (Liu et al. 2023, arXiv 2209.03003). Times
follow the U-shaped law of 2-rectified flow++, and the loss is its pseudo-Huber form, without the features of a
perceptual network (Lee et al. 2024, arXiv 2405.20320, 3.1 and 3.2). Its weights are kept only to train the student.
"""

import sys
from collections.abc import Callable
from math import exp
from pathlib import Path

import torch
from pairs import read
from torch import Tensor, nn

from fewstep.models.training import Loss, Recipe

sys.path.append(str(Path(__file__).parents[1] / "zoo"))  # the recipe that it begins at imports what lies beside it
import dit_flow

TIMESTEPS = 1000
RECIPE = Recipe(steps=800, batch=32, rate=6e-4, seed=0)
HUBER = 0.00054 * 28  # 0.00054 sqrt(d) (Song & Dhariwal 2023, arXiv 2310.14189)
STEEPNESS = 4.0  # of the law of times


def u_shaped(count: int, generator: torch.Generator) -> Tensor:
    """Times [count] in [0, 1] of a density that is proportional to exp(a t) + exp(a (1 - t)), a = STEEPNESS."""
    uniform = torch.rand(count, generator=generator)
    one_sided = torch.log1p(uniform * (exp(STEEPNESS) - 1)) / STEEPNESS
    return torch.where(torch.rand(count, generator=generator) < 0.5, one_sided, 1 - one_sided)


def pseudo_huber(difference: Tensor) -> Tensor:
    """sqrt(|d|^2 + c^2) - c of each sample's difference [B, ...], in the mean."""
    return ((difference.float().flatten(1).square().sum(1) + HUBER**2).sqrt() - HUBER).mean()


def velocity(network: nn.Module, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
    """u [B, 1, 28, 28] at time [B] in [0, 1]."""
    return network(x, TIMESTEPS * time, label).float()


def straightened(
    network: nn.Module, noise: Tensor, sample: Tensor, label: Tensor, generator: torch.Generator
) -> Tensor:
    """The loss of pairs."""
    time = u_shaped(len(noise), generator)
    at = time[:, None, None, None]
    return pseudo_huber(velocity(network, (1 - at) * sample + at * noise, time, label) - (noise - sample))


def batches(loss: Callable[..., Tensor], folder: Path | None, split: str, size: int) -> Loss:
    """What `fewstep.models.training` minimises: the loss of random pairs of the folder."""
    if folder is None:
        raise SystemExit("no pairs: benchmarks.reflow.pairs makes them, and --data names their folder")
    pairs = read(folder, split)

    def drawn(network: nn.Module, generator: torch.Generator) -> Tensor:
        rows = torch.randint(len(pairs[0]), (size,), generator=generator)
        return loss(network, *(each[rows] for each in pairs), generator)

    return drawn


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    network = dit_flow.make()[0].train().requires_grad_(True)
    return network, batches(straightened, folder, split, RECIPE.batch)
