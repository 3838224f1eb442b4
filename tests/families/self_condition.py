"""A network with self-conditioning (Analog Bits: Chen, Zhang, Hinton 2022, arXiv 2208.04202), guided by a class."""

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec

NAME = "self-conditioning (Analog Bits)"
PLAN = "ddim:3"
GUIDANCE = 2.0
CHANNELS, CLASSES = 2, 4


class SelfConditioned(nn.Module):
    """v of x, from x and the x0 that the previous step predicted."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(CLASSES + 1, width)
        self.first = nn.Conv2d(2 * CHANNELS, width, 3, padding=1)
        self.norm = nn.GroupNorm(4, width)
        self.middle = nn.Conv2d(width, width, 3, padding=1)
        self.last = nn.Conv2d(width, CHANNELS, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        x, x0 = x.chunk(2, dim=1)
        h = self.norm(self.first(torch.cat([x0, x], dim=1)))  # in this order in denoising-diffusion-pytorch
        h = h + (self.time(time[:, None] / 1000) + self.label(label))[:, :, None, None]
        v: Tensor = self.last(nn.functional.silu(self.middle(nn.functional.silu(h))))
        return v


def make() -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    label = Condition("class", "label", null=CLASSES, low=0, high=CLASSES - 1)
    schedule = ScheduleSpec("cosine")
    return SelfConditioned(), Spec("self-conditioned", (CHANNELS, 8, 8), (label,), "v", schedule, self_condition=True)
