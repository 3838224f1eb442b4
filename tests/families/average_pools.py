"""Average pools over padding: one-sided, counted or not, and with a size that is rounded up. Versions of onnxruntime
differ in these.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import ScheduleSpec, Spec

NAME = "Average pools over padding"
PLAN = "euler:2"

WIDTH = 16


class Pools(nn.Module):
    """Convolutions with pools between them. The sum of the pools goes up again to the size of x."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(1, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.first, self.middle = nn.Conv2d(2, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.last = nn.Conv2d(WIDTH, 2, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        h = F.silu(self.first(x) + self.time(time[:, None])[:, :, None, None])
        pools = (
            F.avg_pool2d(F.pad(h, (0, 1, 0, 1)), 2, stride=2),
            F.avg_pool2d(F.pad(h, (1, 0, 1, 1)), 2, stride=2, ceil_mode=True),
            F.avg_pool2d(h, 3, stride=2, ceil_mode=True),
            F.avg_pool2d(h, 3, stride=2, padding=1, ceil_mode=True),
            F.avg_pool2d(h, 3, stride=2, padding=1, ceil_mode=True, count_include_pad=False),
        )
        up = sum(F.interpolate(F.silu(self.middle(pool)), size=x.shape[2:], mode="nearest") for pool in pools)
        return self.last(h + up)


def make():
    torch.manual_seed(0)
    return Pools(), Spec("average_pools", (2, 10, 10), (), "flow", ScheduleSpec("flow", timesteps=1))
