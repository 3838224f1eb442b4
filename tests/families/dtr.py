"""A transformer whose channels are routed by time (DTR, Park et al. 2024): its mask, a table by time, is a row."""

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from tests.families.dit_moe import WIDTH, Transformer

NAME = "DTR (DiT, channels routed by time)"
PLAN = "dpmpp_2m:2@trailing"
GUIDANCE = 2.0

TIMESTEPS, SHARE, POWER = 1000, 0.8, 4


def routes() -> Tensor:
    """Return for each time the channels that a block sees [TIMESTEPS, WIDTH]: a window that moves with time to the
    power of POWER, as in the authors' code.
    """
    count = int(WIDTH * SHARE)
    first = (torch.linspace(0, 1, TIMESTEPS, dtype=torch.float64) ** POWER * (WIDTH - count)).round()
    channel = torch.arange(WIDTH)
    return ((channel >= first[:, None]) & (channel < first[:, None] + count)).float()


def wide() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


class Routed(Transformer):
    def __init__(self) -> None:
        super().__init__(wide, rate=-6.0)
        self.register_buffer("routes", routes())

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        return super().forward(x, time, label, self.routes[time.round().long()][:, None])


def make():
    torch.manual_seed(0)
    label = Condition("class", "label", null=4, low=0, high=3)
    return Routed(), Spec("dtr", (4, 8, 8), (label,), "v", ScheduleSpec("linear"))
