"""Export a flow map: a network that takes two times, and jumps from one to the other instead of following the flow.

    python docs/examples/flow_map.py BUNDLE

The example is a MeanFlow network (Geng, Deng, Bai, Kolter, He 2025, arXiv 2505.13447). It predicts the mean velocity
between two times of a flow, and takes them as t and t - r. Shortcut models and consistency trajectory models are
exported in the same way; the solver `ctm` samples with all of them. The weights are random; make() would load trained
ones.
"""

import sys
from math import pi
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans import noise
from fewstep.runtime import UserError, load

SHAPE = (3, 16, 16)
CLASSES = 10
STEPS = 2


class MeanFlow(nn.Module):
    """u(z, t, t - r, class). The two times are embedded separately, and their embeddings are added."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.register_buffer("frequencies", 2.0 ** torch.arange(8) * pi)
        self.times = nn.ModuleList([nn.Linear(16, width), nn.Linear(16, width)])
        self.label = nn.Embedding(CLASSES + 1, width)
        self.first = nn.Conv2d(SHAPE[0], width, 3, padding=1)
        self.blocks = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(2)])
        self.known = nn.ModuleList([nn.Linear(width, 2 * width) for _ in range(2)])
        self.norm = nn.GroupNorm(8, width)
        self.last = nn.Conv2d(width, SHAPE[0], 3, padding=1)

    def forward(self, z: Tensor, t: Tensor, span: Tensor, label: Tensor) -> Tensor:
        known = self.label(label)
        for embed, time in zip(self.times, (t, span), strict=True):
            angles = time[:, None] * self.frequencies
            known = known + embed(torch.cat([angles.sin(), angles.cos()], dim=1))
        h = self.first(z)
        for block, linear in zip(self.blocks, self.known, strict=True):
            scale, shift = linear(f.silu(known))[:, :, None, None].chunk(2, dim=1)
            h = h + block(f.silu(self.norm(h) * (1 + scale) + shift))
        velocity: Tensor = self.last(f.silu(h))
        return velocity


class Told(nn.Module):
    """The network with the arguments that fewstep passes: x at `time`, and the cleaner time `to`. Time 1 is noise, and
    0 is data."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MeanFlow()

    def forward(self, x: Tensor, time: Tensor, to: Tensor, label: Tensor) -> Tensor:
        velocity: Tensor = self.network(x, time, time - to, label)
        return velocity


def make() -> tuple[nn.Module, Spec]:
    """Return the network, and a spec for the velocity noise - x0 ("flow") on times from 0 to 1. `to` declares that the
    network takes two times."""
    torch.manual_seed(0)
    label = Condition("class", input="label", null=CLASSES, low=0, high=CLASSES - 1)
    return Told(), Spec("flow-map", SHAPE, (label,), "flow", ScheduleSpec("flow", timesteps=1), to="to")


@torch.no_grad()
def jumps(network: MeanFlow, z: Tensor, label: Tensor) -> Tensor:
    """Sample with the published sampler: z_r = z_t - (t - r) u(z_t, r, t)."""
    for i in range(STEPS):
        t, r = (torch.full((len(z),), 1 - j / STEPS) for j in (i, i + 1))
        z = z - (t - r)[:, None, None, None] * network(z, t, t - r, label)
    return z


def main(bundle: str) -> None:
    seeds, labels = [0, 1, 2], [3, 7, 9]
    export(ExportOptions(source=f"{Path(__file__)}:make", output=Path(bundle)))
    with load(bundle) as sampler:
        x = sampler.sample(f"ctm:{STEPS}", seeds, condition={"class": labels})
    z = torch.from_numpy(noise.normal_batch(seeds, 0, SHAPE))
    expected = jumps(make()[0].eval().network, z, torch.tensor(labels)).numpy()
    difference = np.abs(x - expected).max() / np.abs(expected).max()
    print(f"{bundle}: random weights, {len(x)} samples in {STEPS} jumps, {difference:.1e} from torch")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/flow_map.py BUNDLE")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"flow_map: {error}")
