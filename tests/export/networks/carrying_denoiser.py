"""A small chunk-causal denoiser: a convolution over time, which carries the frames that the next chunk needs."""

import torch
from torch import Tensor, nn

from fewstep.export import Carried, Condition, ScheduleSpec, Spec

BANDS, FRAMES, WIDTH, PAST = 4, 6, 16, 3
LABEL = Condition("label", input="label", null=3, low=0, high=2)


class Causal(nn.Module):
    """x [B, BANDS, FRAMES] at times [B] for labels [B]; `past` [B, WIDTH, PAST] are features of the frames before, and
    `count` [B, 1] are the chunks before."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.middle = nn.Conv1d(BANDS, WIDTH, 1), nn.Conv1d(WIDTH, WIDTH, 1)
        self.causal, self.out = nn.Conv1d(WIDTH, WIDTH, PAST + 1), nn.Conv1d(WIDTH, BANDS, 1)
        self.time, self.label = nn.Linear(1, WIDTH), nn.Embedding(4, WIDTH)

    def forward(self, x: Tensor, time: Tensor, label: Tensor, past: Tensor, count: Tensor):
        embedding = self.time(time[:, None] / 1000) + self.label(label) + 0.1 * torch.clamp(count, max=2).float()
        h = torch.tanh(self.middle(torch.tanh(self.inner(x))) + embedding[:, :, None])
        h = torch.cat([past, h], dim=2)
        return self.out(torch.tanh(self.causal(h))), h[:, :, -PAST:], count + 1


def spec(bank: str = "step", **changes) -> Spec:
    """`count` always has the bank of the sample, so that both types of banks are in one bundle."""
    carried = (Carried("past", (WIDTH, PAST), bank), Carried("count", (1,), "sample", "int64"))
    fields = {"conditions": (LABEL,), "carried": carried, "schedule": ScheduleSpec("flow", timesteps=1000), **changes}
    return Spec("causal", (BANDS, FRAMES), prediction="flow", **fields)


def make():
    return Causal(), spec()
