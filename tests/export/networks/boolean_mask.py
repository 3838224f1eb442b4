"""A denoiser of pictures with a condition of type bool, a mask of what it predicts, as a source of `export`."""

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, mask: Tensor) -> Tensor:
        level = (time / 1000)[:, None, None, None].expand_as(x)
        return torch.where(mask, self.last(self.first(torch.cat([x, level], 1)).relu()), x)


def make() -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    mask = Condition("mask", "mask", (1, 8, 8), "bool", low=0, high=1)
    return Network(), Spec("boolean_mask", (1, 8, 8), (mask,), "epsilon", ScheduleSpec("linear"))
