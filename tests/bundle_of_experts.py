"""A bundle of two random networks. A thin one runs the noisy steps."""

from pathlib import Path

from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions

LAYERS = '''
"""Random networks of two widths."""

import torch
from fewstep.export.spec import Spec
from fewstep.plans.spec import ScheduleSpec


class Layers(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        torch.manual_seed(width)
        self.first, self.time = torch.nn.Conv2d(1, width, 3, padding=1), torch.nn.Linear(1, width)
        self.inner, self.last = torch.nn.Conv2d(width, width, 3, padding=1), torch.nn.Conv2d(width, 1, 3, padding=1)

    def forward(self, x, time):
        hidden = torch.relu(self.first(x) + self.time(time[:, None] / 1000)[:, :, None, None])
        return x + self.last(torch.relu(self.inner(hidden)))


def wide():
    return Layers(24).eval(), Spec("layers", (1, 8, 8), (), "flow", ScheduleSpec("flow"))


def thin():
    return Layers(16).eval(), Spec("layers", (1, 8, 8), (), "flow", ScheduleSpec("flow"))
'''
EDGE = -0.5


def export_layers(folder: Path) -> Path:
    """Export the bundle into a folder."""
    file, bundle = folder / "layers.py", folder / "bundle"
    file.write_text(LAYERS)
    export(ExportOptions(f"{file}:wide", bundle, verify="quick", expert=(f"noisy={file}:thin@{EDGE}",)))
    return bundle
