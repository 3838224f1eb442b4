"""A 1-D U-Net whose horizon is free: one policy for short and long plans."""

import torch
from torch import nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Size, Spec

NAME = "1-D U-Net with a free horizon"
PLAN = "ddim:2@trailing"


class Block(nn.Module):
    def __init__(self, given, made):
        super().__init__()
        self.conv, self.norm = nn.Conv1d(given, made, 3, padding=1), nn.GroupNorm(4, made)
        self.scale_shift = nn.Linear(16, 2 * made)

    def forward(self, x, state):
        scale, shift = self.scale_shift(state)[:, :, None].chunk(2, dim=1)
        return F.mish(self.norm(self.conv(x)) * (1 + scale) + shift)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.state = nn.Linear(6, 16)
        self.wide, self.down = Block(2, 8), nn.Conv1d(8, 16, 3, stride=2, padding=1)
        self.inner, self.up = Block(16, 16), nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1)
        self.out, self.last = Block(16, 8), nn.Conv1d(8, 2, 1)

    def forward(self, x, time, observation):
        state = F.mish(self.state(torch.cat([observation, time[:, None] / 100], 1)))
        wide = self.wide(x.transpose(1, 2), state)
        inner = self.up(self.inner(self.down(wide), state))
        return self.last(self.out(torch.cat([inner, wide], 1), state)).transpose(1, 2)


def make():
    torch.manual_seed(0)
    observation = Condition("observation", "observation", (5,), "float32", typical=(-1.0, 1.0))
    horizon = Size("horizon", axis=0, low=4, high=32, multiple=2)
    return Policy(), Spec("policy", (16, 2), (observation,), "epsilon", ScheduleSpec("linear", 100), sizes=(horizon,))
