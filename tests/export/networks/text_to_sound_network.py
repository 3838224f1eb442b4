"""A one-dimensional network of free length with a text of the same length, as a source of `export`."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, ScheduleSpec, Size, Spec


class Network(nn.Module):
    """Each frame depends on its neighbours, on the time and on the text."""

    def __init__(self) -> None:
        super().__init__()
        self.time, self.text = nn.Linear(1, 32), nn.Conv1d(6, 32, 1)
        self.first, self.middle = nn.Conv1d(4, 32, 3, padding=1), nn.Conv1d(32, 32, 5, padding=2)
        self.last = nn.Conv1d(32, 4, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, text: Tensor) -> Tensor:
        wide = F.silu(self.first(x) + self.text(text) + self.time(time[:, None] / 1000)[..., None])
        made: Tensor = self.last(wide + F.silu(self.middle(wide)))
        return made


def make() -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    text = Condition("text", "text", (6, 24), "float32", null=0.0, typical=(-1, 1), follows={1: "frames"})
    frames = Size("frames", axis=1, low=8, high=64)
    return Network(), Spec("sound", (4, 24), (text,), "flow", ScheduleSpec("flow"), sizes=(frames,))
