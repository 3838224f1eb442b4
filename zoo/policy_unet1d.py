"""The 1-D U-Net of Diffusion Policy (Chi et al. 2023, arXiv 2303.04137), trained on generated demonstrations: a point
moves to a goal around an obstacle on one of three routes."""

import torch
from denoising import Batch, Data, Trained
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.training import Recipe
from fewstep.robots.networks.unet1d import ConditionalUnet1d
from fewstep.runtime.bundle.manifest import Policy

HORIZON = 16
LOW = (-1.0, -0.5, 0.6, -0.5, -0.2, -0.3)  # uniform ranges of start, goal and obstacle, each (x, y)
HIGH = (-0.6, 0.5, 1.0, 0.5, 0.2, 0.3)
ROUTES = (-0.4, 0.4, 0.7)  # distances above the obstacle at which the point passes
SEEN = Condition("observation", input="observation", shape=(1, 6), dtype="float32", typical=(LOW, HIGH))
SPEC = Spec(
    "policy_unet1d",
    (HORIZON, 2),
    (SEEN,),
    "sample",
    ScheduleSpec("cosine", timesteps=100),
    policy=Policy(observations=1, first=0, actions=8),
)
RECIPE = Recipe(steps=3_000, batch=64, rate=1e-3, seed=0)
PIXELS, REACH = 64, 1.25  # pixels of a picture, and the coordinate of its edge


def demonstrations(count: int, generator: torch.Generator) -> Batch:
    """Return positions [B, 16, 2], and observations [B, 1, 6]."""
    low, high = torch.tensor(LOW), torch.tensor(HIGH)
    seen = low + (high - low) * torch.rand(count, len(LOW), generator=generator)
    routes = torch.tensor(ROUTES)[torch.randint(len(ROUTES), (count,), generator=generator)]
    return Batch(paths(seen, routes), (seen[:, None],))


def paths(seen: Tensor, above: Tensor) -> Tensor:
    """Return positions [B, 16, 2] from start to goal with minimum jerk, along a parabola that passes the obstacle at
    the distance `above` [B], for observations [B, 6]."""
    t = (torch.arange(HORIZON) + 1) / HORIZON
    s = (10 * t**3 - 15 * t**4 + 6 * t**5)[:, None]
    start, goal, obstacle = seen[:, None].chunk(3, dim=2)
    passed = obstacle + torch.stack([torch.zeros_like(above), above], dim=1)[:, None]
    return (1 - s) * (1 - 2 * s) * start + 4 * s * (1 - s) * passed + s * (2 * s - 1) * goal


def show(samples: Tensor, conditions: tuple[Tensor, ...]) -> Tensor:
    """Return images [N, 1, 64, 64] with the positions as bright points, the goal as a dim point, and the centre of the
    obstacle as a dark point."""
    pictures = torch.full((len(samples), 1, PIXELS, PIXELS), -0.5)
    for picture, positions, seen in zip(pictures[:, 0], samples, conditions[0][:, 0], strict=True):
        goal, obstacle = seen[2:4], seen[4:]
        for point, brightness in ((goal, 0.2), (obstacle, -1.0), *((position, 1.0) for position in positions)):
            column, row = ((point * torch.tensor([1.0, -1.0]) / REACH + 1) / 2 * PIXELS).long().clamp(1, PIXELS - 1)
            picture[row - 1 : row + 1, column - 1 : column + 1] = brightness
    return pictures


class Network(nn.Module):
    """Predicts x0 of actions x [B, 16, 2] at timestep time [B] in [0, 100), for observations [B, 1, 6]."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = ConditionalUnet1d(2, len(LOW), (32, 64, 96), kernel=5, time_width=64, scales=True)

    def forward(self, x: Tensor, time: Tensor, observation: Tensor) -> Tensor:
        return self.unet(x, time, observation.flatten(1))


DATA = Data("demonstrations made by code, as many as are asked for", lambda folder, split: demonstrations)


make = Trained(__file__, Network, SPEC)
