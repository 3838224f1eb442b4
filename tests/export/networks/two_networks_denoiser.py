"""Two networks of one denoiser, whose outputs are mixed by a share (SINE)."""

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec

PICTURE, EARLIEST, LATEST = 0, 400.0, 900.0  # the class of the one picture; where its network has a say


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.label, self.conv = nn.Embedding(4, 4), nn.Conv2d(1, 4, 3, padding=1)
        self.out = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        h: Tensor = self.out(
            torch.tanh(self.conv(x) + self.label(label)[:, :, None, None] + time[:, None, None, None] / 1000)
        )
        return h


class Edited(nn.Module):
    """Two networks, one for all pictures and one tuned on a single picture. At times between EARLIEST and LATEST their
    outputs are mixed with the weights (1 - share) and share."""

    def __init__(self) -> None:
        super().__init__()
        self.all, self.one = Network(), Network()

    def forward(self, x: Tensor, time: Tensor, label: Tensor, share: Tensor) -> Tensor:
        has_a_say = (time >= EARLIEST) & (time <= LATEST)
        beta = torch.where(has_a_say, share, torch.zeros_like(share))[:, None, None, None]
        mixed: Tensor = (1 - beta) * self.all(x, time, label) + beta * self.one(
            x, time, torch.full_like(label, PICTURE)
        )
        return mixed


def make():
    torch.manual_seed(0)
    label = Condition("class", "class", null=3, low=0, high=2)
    share = Condition("share", "share", dtype="float32", typical=(0.0, 1.0))
    return Edited(), Spec("edited", (1, 4, 4), (label, share), "epsilon", ScheduleSpec("linear"))
