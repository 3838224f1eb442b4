"""A bundle of a random U-Net with one skip connection and a light network."""

from pathlib import Path

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions

SKIPPING = '''
"""A random U-Net of two resolutions."""

import torch
from fewstep.export import Condition, Spec
from fewstep.plans.spec import ScheduleSpec


class Skipping(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.time = torch.nn.Conv2d(1, 24, 3, padding=1), torch.nn.Linear(1, 24)
        self.label = torch.nn.Embedding(4, 24)
        self.down, self.deep = torch.nn.Conv2d(24, 32, 3, 2, 1), torch.nn.Conv2d(32, 32, 3, padding=1)
        self.up, self.near = torch.nn.Conv2d(32, 24, 3, padding=1), torch.nn.Conv2d(48, 24, 3, padding=1)
        self.last = torch.nn.Conv2d(24, 1, 3, padding=1)

    def forward(self, x, time, label):
        shift = self.time(time[:, None] / 1000) + self.label(label)
        h = torch.relu(self.first(x) + shift[:, :, None, None])
        deep = torch.relu(self.deep(torch.relu(self.down(h)) + shift.mean(1)[:, None, None, None]))
        deep = torch.relu(self.up(torch.nn.functional.interpolate(deep, scale_factor=2.0)))
        return self.last(torch.relu(self.near(torch.cat([h, deep], 1))))


def make():
    label = Condition("class", "label", null=3, low=0, high=2)
    return Skipping().eval(), Spec("skipping", (1, 8, 8), (label,), "v", ScheduleSpec("cosine"))
'''


def export_light(folder: Path, cache: str = "depth1", **options: object) -> Path:
    """Export the bundle into a folder."""
    file, bundle = folder / "skipping.py", folder / "bundle"
    file.write_text(SKIPPING)
    export(ExportOptions(f"{file}:make", bundle, verify="quick", cache=cache, **options))  # type: ignore[arg-type]
    return bundle
