"""A code of a picture, of which each time uses a part (DiTi, Yue et al. 2024). A decoder of the code's first numbers
restores what a frozen denoiser has lost of the picture, with more numbers as noise grows.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, NamedOutput, ScheduleSpec, Spec
from fewstep.plans.schedule import NoiseSchedule

NAME = "DiTi (a code for each time)"
PLAN = "ddim:2@trailing"

WIDTH, CODE, SCHEDULE = 32, 16, ScheduleSpec("linear")


class Coded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        schedule = NoiseSchedule(SCHEDULE)
        self.register_buffer("sigma", torch.tensor([schedule.sigma(t) for t in range(1000)], dtype=torch.float32))
        self.encoder = nn.Sequential(nn.Conv2d(3, WIDTH, 3, 2, 1), nn.SiLU(), nn.Flatten(), nn.Linear(16 * WIDTH, CODE))
        self.time = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.first, self.last = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 3, 3, padding=1)
        self.middle, self.shift = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, 3, 3, padding=1)
        self.known, self.lost = nn.Linear(CODE, WIDTH), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, picture: Tensor):
        code = self.encoder(picture)
        part = (torch.arange(CODE) < ((time + 1) / 1000 * CODE).ceil()[:, None]).float()
        known = self.time(time[:, None] / 1000)[:, :, None, None]
        h = F.silu(self.first(x) + known)
        noise = self.last(F.silu(self.middle(h)))
        lost = self.shift(F.silu(self.lost(h + self.known(code * part)[:, :, None, None])))
        return noise - self.sigma[time.round().long()][:, None, None, None] * lost, code


def make():
    torch.manual_seed(0)
    picture = Condition("picture", "picture", (3, 8, 8), "float32", low=-1.0, high=1.0)
    return Coded(), Spec("diti", (3, 8, 8), (picture,), "epsilon", SCHEDULE, outputs=(NamedOutput("code", (CODE,)),))
