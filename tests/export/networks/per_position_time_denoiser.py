"""A small denoiser with a time for each position: a convolution over positions."""

import torch
from torch import Tensor, nn

from fewstep.export import Condition, Positions, ScheduleSpec, Spec

PLACES, VALUES, WIDTH = 8, 2, 32
GOAL = Condition("goal", "goal", (2,), "float32", low=-1, high=1)


class Rolling(nn.Module):
    """x [B, PLACES, VALUES] at times [B, PLACES] for a goal [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.values, self.times, self.goal = nn.Linear(VALUES, WIDTH), nn.Linear(2, WIDTH), nn.Linear(2, WIDTH)
        self.mix, self.out = nn.Conv1d(WIDTH, WIDTH, 3, padding=1), nn.Linear(WIDTH, VALUES)

    def forward(self, x: Tensor, time: Tensor, goal: Tensor) -> Tensor:
        times = self.times(torch.stack([torch.cos(3 * time), torch.sin(3 * time)], dim=2))
        h = torch.tanh(self.values(x) + times + self.goal(goal)[:, None])
        return self.out(torch.tanh(self.mix(h.transpose(1, 2)).transpose(1, 2) + h))


def spec(**changes) -> Spec:
    own = {"conditions": (GOAL,), "positions": Positions(0, leaves=2)} | changes
    return Spec("rolling", (PLACES, VALUES), prediction="flow", schedule=ScheduleSpec("flow", timesteps=1), **own)


def make():
    return Rolling(), spec()
