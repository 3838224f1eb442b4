"""A denoiser for slots: a layer in the prologue, convolutions with each kernel size, one after a Concat, and
attention.
"""

import torch
from torch import nn

from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec


class Denoiser(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv_in, self.down = nn.Conv2d(2, 16, 3, padding=1), nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.mid, self.grouped = nn.Conv2d(32, 32, 1), nn.Conv2d(32, 32, 3, padding=1, groups=4)
        self.time, self.q, self.v = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        self.up, self.out = nn.Conv2d(48, 16, 3, padding=1, dilation=1), nn.Conv2d(16, 2, 3, padding=1)

    def forward(self, x, time):
        act = nn.functional.silu
        e = self.time((time[:, None] / 1000 * torch.arange(1, 9)).sin())
        a = act(self.conv_in(x))
        h = act(self.grouped(act(self.mid(self.down(a) + e[:, :, None, None]))))
        s = h.flatten(2).transpose(1, 2)
        s = s + self.v(torch.softmax(self.q(s) @ s.transpose(1, 2) / 6, -1) @ s)
        h = nn.functional.interpolate(s.transpose(1, 2).unflatten(2, h.shape[2:]), scale_factor=2.0)
        return self.out(act(self.up(torch.cat([h, a], 1))))


def make():
    return Denoiser(), Spec("tiny", (2, 8, 8), (), "v", ScheduleSpec("cosine"))
