"""A denoiser whose weights are in bfloat16, as a file of the user's makes it."""

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec

WIDTH, TOKENS = 48, 8


class HalfDenoiser(nn.Module):
    """A residual network of tokens with an embedding of labels."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(16, WIDTH), nn.Linear(WIDTH, 16)
        self.label, self.time = nn.Embedding(400, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.wide, self.narrow = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        waves = torch.cos(time[:, None] / 1000 * torch.arange(WIDTH))
        h = self.first(x) + (self.time(waves) + self.label(label))[:, None]
        h = h + self.narrow(nn.functional.gelu(self.wide(h)))
        made: Tensor = self.last(h)
        return made


def make() -> tuple[nn.Module, Spec]:
    torch.manual_seed(0)
    label = Condition("label", input="label", null=399, low=0, high=399)
    return HalfDenoiser().bfloat16(), Spec("half", (TOKENS, 16), (label,), "v", ScheduleSpec("cosine", timesteps=1000))
