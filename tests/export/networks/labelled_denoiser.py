"""A denoiser with two conditions, neither of which is called class."""

from torch import nn

from fewstep.export import Condition, ScheduleSpec, Spec


class Labelled(nn.Module):
    def forward(self, x, time, label, strength):
        return 0.5 * x + (label * strength * time)[:, None, None, None]


def make():
    label = Condition("label", "label", low=0, high=9)
    strength = Condition("strength", "strength", (), "float32", low=0, high=1)
    return Labelled(), Spec("labelled", (1, 4, 4), (label, strength), "v", ScheduleSpec("cosine"))
