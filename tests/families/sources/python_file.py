"""A user-supplied torch module: a function in a file returns it with its Spec."""

import torch
from torch import nn

from fewstep.export import Condition, ScheduleSpec, Spec

NAME = "A torch module (FILE.py:FUNCTION)"
PLAN = "heun:2@trailing"
GUIDANCE = 2.0


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, 32), nn.SiLU(), nn.Linear(32, 32))
        self.label = nn.Embedding(4, 32)
        self.first = nn.Conv2d(1, 32, 3, padding=1)
        self.norm = nn.GroupNorm(4, 32)
        self.middle = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, x, time, label):
        shift = self.time(time[:, None]) + self.label(label)
        h = self.norm(self.first(x)) + shift[:, :, None, None]
        return self.last(torch.relu(self.middle(nn.functional.silu(h))))


def make():
    torch.manual_seed(0)
    label = Condition("class", "label", null=3, low=0, high=2)
    return Denoiser(), Spec("own", (1, 8, 8), (label,), "flow", ScheduleSpec("flow", timesteps=1))
