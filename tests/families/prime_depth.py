"""Depth from one evaluation (PrimeDepth, Zavadski et al. 2024): a denoiser takes a picture at its last time, and a
smaller network reads its features at several resolutions.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import NamedOutput, ScheduleSpec, Spec

NAME = "PrimeDepth (depth from a denoiser's features)"
PLAN = "ddim:1@custom(times=(1,))"

WIDTH = 16


class Depth(nn.Module):
    """The U-Net keeps its features of each resolution; the refiner goes up through them and through the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.first, self.down = nn.Conv2d(4, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 2 * WIDTH, 3, stride=2, padding=1)
        self.middle = nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1)
        self.up, self.last = nn.Conv2d(3 * WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 4, 3, padding=1)
        self.coarse = nn.Conv2d(2 * WIDTH, WIDTH, 3, padding=1)
        self.fine = nn.Conv2d(3 * WIDTH, WIDTH, 3, padding=1)
        self.picture, self.depth = nn.Conv2d(4, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor):
        fine = F.silu(self.first(x) + self.time(time[:, None] / 1000)[:, :, None, None])
        coarse = F.silu(self.middle(F.silu(self.down(fine))))
        h = F.silu(self.up(torch.cat([F.interpolate(coarse, scale_factor=2.0), fine], dim=1)))
        refined = F.interpolate(F.silu(self.coarse(coarse)), scale_factor=2.0)
        refined = F.silu(self.fine(torch.cat([refined, h, self.picture(x)], dim=1)))
        depth = self.depth(F.interpolate(refined, scale_factor=2.0)).squeeze(1)
        return self.last(h), depth


def make():
    torch.manual_seed(0)
    schedule = ScheduleSpec("scaled-linear", 1000, 0.00085, 0.012)
    outputs = (NamedOutput("depth", (16, 16)),)
    return Depth(), Spec("prime_depth", (4, 8, 8), (), "epsilon", schedule, outputs=outputs)
