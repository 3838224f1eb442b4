"""Named outputs: a picture that is denoised, and decoders of its mask and of its class, which share the network."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import NamedOutput, ScheduleSpec, Spec

NAME = "Named outputs (a mask and a class)"
PLAN = "ddim:2@trailing"

WIDTH = 32


class Tasks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.first, self.down = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.middle, self.up = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1)
        self.picture = nn.Conv2d(WIDTH, 3, 3, padding=1)
        self.mask = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU(), nn.Conv2d(WIDTH, 1, 1))
        self.label = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.SiLU(), nn.Linear(WIDTH, 10))

    def forward(self, x: Tensor, time: Tensor):
        fine = F.silu(self.first(x) + self.time(time[:, None] / 1000)[:, :, None, None])
        coarse = F.silu(self.middle(F.silu(self.down(fine))))
        h = F.silu(self.up(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], dim=1)))
        return self.picture(h), self.mask(h).sigmoid(), self.label(coarse.mean((2, 3)))


def make():
    torch.manual_seed(0)
    outputs = (NamedOutput("mask", (1, 8, 8)), NamedOutput("logits", (10,)))
    return Tasks(), Spec("mask_and_class", (3, 8, 8), (), "v", ScheduleSpec("linear"), outputs=outputs)
