"""An unconditional denoiser of series made by code, for forecasts by observation self-guidance (`tsdiff.py`).

    python -m benchmarks.steering.series --work FOLDER [--minutes 25]

trains it on a CPU. The same command goes on where the last one stopped, and leaves the weights in FOLDER. The schedule
and the training loss are TSDiff's (Kollovieh et al. 2023, arXiv 2307.11494). Its layers are dilated convolutions in the
place of S4, and x has no lags: this is a model of 0.15 million weights, not theirs.
"""

import argparse
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.blocks import time_features
from fewstep.models.training import Recipe, train
from fewstep.models.weights import load_weights
from fewstep.plans.schedule import NoiseSchedule

LENGTH, CONTEXT = 96, 72
WIDTH, KERNEL, DILATIONS = 40, 5, (1, 2, 4, 8, 16, 32, 2, 8)
PERIODS = (24, 16, 0)  # of a series, each as likely; 0 has no season
SEASON = (0.8, 0.35)  # deviations of the first and the second harmonic
RESTS = ((0.49, 0.9), (0.49, 0.9), (1.0, 0.98))  # deviation and correlation of neighbours, of what is no season
RECIPE = Recipe(steps=3_400, batch=64, rate=1e-3, seed=0)
SPEC = Spec("series", (1, LENGTH), (), "epsilon", ScheduleSpec("linear", timesteps=100, beta_end=0.1))


def covariances() -> NDArray[np.float64]:
    """Of each kind of series. [kinds, LENGTH, LENGTH]"""
    away = np.abs(np.subtract.outer(np.arange(LENGTH), np.arange(LENGTH)))
    kinds = []
    for period, (deviation, correlation) in zip(PERIODS, RESTS, strict=True):
        season = [(i + 1, size) for i, size in enumerate(SEASON) if period]
        waves = sum(size**2 * np.cos(2 * math.pi * harmonic * away / period) for harmonic, size in season)
        kinds.append(deviation**2 * correlation**away + waves)
    return np.array(kinds)


def drawn(count: int, generator: torch.Generator) -> Tensor:
    """Series [count, 1, LENGTH]: normal given their kind."""
    factors = torch.from_numpy(np.linalg.cholesky(covariances())).float()
    kinds = torch.randint(len(factors), (count,), generator=generator)
    return (factors[kinds] @ torch.randn(count, LENGTH, 1, generator=generator)).mT


class Block(nn.Module):
    """A gated dilated convolution over the series, told the time; a residual and a skip."""

    def __init__(self, dilation: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, WIDTH)
        self.time = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Conv1d(WIDTH, 2 * WIDTH, KERNEL, padding=dilation * (KERNEL // 2), dilation=dilation)
        self.out = nn.Conv1d(WIDTH, 2 * WIDTH, 1)

    def forward(self, h: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        value, gate = self.mix(self.norm(h) + self.time(embedding)[:, :, None]).chunk(2, dim=1)
        residual, skip = self.out(value.tanh() * gate.sigmoid()).chunk(2, dim=1)
        return h + residual, skip


class Series(nn.Module):
    """The noise in x [B, 1, LENGTH] at timestep time [B] in [0, 100)."""

    def __init__(self) -> None:
        super().__init__()
        self.time_mlp = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH), nn.SiLU())
        self.first = nn.Conv1d(1, WIDTH, 1)
        self.blocks = nn.ModuleList([Block(dilation) for dilation in DILATIONS])
        self.last = nn.Sequential(nn.SiLU(), nn.Conv1d(WIDTH, WIDTH, 1), nn.SiLU(), nn.Conv1d(WIDTH, 1, 1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        embedding = self.time_mlp(time_features(time * 10, WIDTH))
        h, total = self.first(x), torch.zeros(())
        for block in self.blocks:
            h, skip = block(h, embedding)
            total = total + skip
        noise: Tensor = self.last(total * len(self.blocks) ** -0.5)
        return noise


def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
    """Mean squared error of the noise, at timesteps drawn evenly."""
    schedule = NoiseSchedule(SPEC.schedule)
    table = torch.tensor([(at.alpha, at.sigma) for at in map(schedule.time, map(float, range(schedule.timesteps)))])
    x0 = drawn(RECIPE.batch, generator)
    steps = torch.randint(len(table), (RECIPE.batch,), generator=generator)
    noise = torch.randn(x0.shape, generator=generator)
    alpha, sigma = table[steps][:, :, None, None].unbind(1)
    return (network(alpha * x0 + sigma * noise, steps.float()).float() - noise).square().mean()


def make() -> tuple[nn.Module, Spec]:
    """The trained network."""
    return load_weights(Series(), Path(__file__).with_suffix(".safetensors")), SPEC


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--minutes", type=float, default=25, help="stop then, to go on another time")
    options = parser.parse_args()
    arguments = argparse.Namespace(work=options.work, device="cpu", checkpoint_minutes=2, **asdict(RECIPE))
    torch.manual_seed(RECIPE.seed)
    train(Series(), loss, arguments, "series.safetensors", options.minutes)


if __name__ == "__main__":
    main()
