"""A small token denoiser of two codebooks, with a class. `time_aware` also reads the time, and has a scheduler."""

import torch
from torch import nn

from fewstep.export import Condition, ScheduleSpec, Size, Spec, Vocabulary

IDS, MASK = 16, 16


class Coded(nn.Module):
    """Two codebooks of 16 ids, attention over frames, a class with null; `is_timed` reads the time."""

    def __init__(self, is_timed: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.ids = nn.ModuleList(nn.Embedding(IDS + 1, 32) for _ in range(2))
        self.label, self.mix, self.head = nn.Embedding(4, 32), nn.Linear(32, 32), nn.Linear(32, 2 * IDS)
        self.is_timed = is_timed

    def forward(self, ids, time, label):
        h = self.label(label)[:, None] + self.ids[0](ids[:, 0]) + self.ids[1](ids[:, 1])
        if self.is_timed:
            h = h + torch.sin(time / 100)[:, None, None]
        h = h + torch.softmax(self.mix(h) @ h.transpose(1, 2) / 6, -1) @ h
        return self.head(h).unflatten(2, (2, IDS)).transpose(1, 2)


class Unconditional(nn.Module):
    """`Coded` at its null class."""

    def __init__(self) -> None:
        super().__init__()
        self.coded = Coded()

    def forward(self, ids, time):
        return self.coded(ids, time, torch.full_like(ids[:, 0, 0], 3))


def spec(**changed):
    classes = Condition(name="class", input="class", null=3, low=0, high=2)
    fields = {"sizes": (Size("length", 1, 6, 24),), "vocabulary": Vocabulary(IDS, MASK), "conditions": (classes,)}
    fields |= {"prediction": "logits", "schedule": ScheduleSpec("flow"), **changed}
    return Spec("coded", (2, 12), **fields)


def make():
    return Coded(), spec()


def time_aware():
    scheduler = {"_class_name": "AmusedScheduler", "mask_token_id": MASK, "masking_schedule": "linear"}
    return Coded(is_timed=True), spec(scheduler=scheduler)


def unconditional():
    return Unconditional(), spec(conditions=(), sizes=())
