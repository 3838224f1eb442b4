"""A small denoiser with outputs besides its prediction: a depth, logits of a class, a code of the input picture."""

import torch
from torch import Tensor, nn

from fewstep.export import Condition, NamedOutput, ScheduleSpec, Spec

WIDTH = 32


def spec(**changed) -> Spec:
    picture = Condition("picture", "picture", (1, 8, 8), "float32", null=0.0, typical=(-1.0, 1.0))
    named = (NamedOutput("depth", (1, 4, 4)), NamedOutput("logits", (3,)), NamedOutput("code", (5,)))
    fields = {"conditions": (picture,), "outputs": named, **changed}
    return Spec("seeing", (1, 8, 8), prediction="flow", schedule=ScheduleSpec("flow"), **fields)


class Seeing(nn.Module):
    """A flow, a depth at half the size (as PrimeDepth reads it from a denoiser's features), logits of a class, and a
    code of the picture only (as DiTi's encoder).
    """

    def __init__(self, changed=lambda returned: returned) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.middle = nn.Conv2d(2, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.time, self.last = nn.Linear(1, WIDTH), nn.Conv2d(WIDTH, 1, 3, padding=1)
        self.depth = nn.Sequential(nn.Conv2d(WIDTH, WIDTH, 3, 2, 1), nn.SiLU(), nn.Conv2d(WIDTH, 1, 3, padding=1))
        self.label, self.encoder = nn.Linear(WIDTH, 3), nn.Sequential(nn.Linear(64, 16), nn.SiLU(), nn.Linear(16, 5))
        self.changed = changed

    def forward(self, x: Tensor, time: Tensor, picture: Tensor):
        h = torch.relu(self.first(torch.cat([x, picture], 1)) + self.time(time[:, None] / 1000)[:, :, None, None])
        h = torch.relu(self.middle(h))
        return self.changed((self.last(h), self.depth(h), self.label(h.mean((2, 3))), self.encoder(picture.flatten(1))))


def make():
    return Seeing(), spec()
