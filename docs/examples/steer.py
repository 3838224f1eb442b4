"""Steer samples by your own energy: here points of a ring, which should lie above a line.

    python docs/examples/steer.py ring

The denoiser is exact for eight clusters on a ring. `make` adds the gradient of the energy as a second output, which the
guidance `Steer` reads. On the command line, the export is `fewstep export docs/examples/steer.py:make -o ring`.
"""

import math
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.literature.gradients.gradient import Noisy, with_gradient
from fewstep.plans.guidance import Steer
from fewstep.runtime import UserError, load

CLUSTERS, SPREAD = 8, 0.1


class Ring(nn.Module):
    """The flow, noise - x0, of eight clusters at distance 1 from the origin: `forward(x, time)` with times in [0,
    1]."""

    def __init__(self) -> None:
        super().__init__()
        angles = torch.arange(CLUSTERS) * (2 * math.pi / CLUSTERS) + 0.2
        self.register_buffer("centres", torch.stack([angles.cos(), angles.sin()], dim=1))

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        sigma, alpha = time[:, None], 1 - time[:, None]
        variance = (alpha * SPREAD) ** 2 + sigma**2
        away = x[:, None] - alpha[:, None] * self.centres
        share = torch.softmax(-0.5 * away.square().sum(-1) / variance, dim=1)[..., None]
        x0 = (share * (self.centres + (alpha * SPREAD**2 / variance)[:, None] * away)).sum(1)
        noise = (share * (sigma / variance)[:, None] * away).sum(1)
        return noise - x0


def above(x0: Tensor, noisy: Noisy, height: Tensor) -> Tensor:
    """Return minus the log-probability of lying above a height [B, 1], estimated from the predicted sample at this
    noise level."""
    spread = 0.05 + 0.5 * (noisy.sigma / (noisy.alpha**2 + noisy.sigma**2).sqrt())
    return nn.functional.softplus((height - x0[:, 1:]) / (0.6 * spread)).sum(1)


def make() -> tuple[nn.Module, Spec]:
    """Return the module with both outputs, and its spec. `fewstep export FILE.py:make` calls this function."""
    spec = Spec("ring", (2,), (), "flow", ScheduleSpec("flow", timesteps=1))
    height = Condition("height", "height", (1,), "float32", typical=(-1.0, 1.0))
    return with_gradient(Ring(), spec, above, (height,))


def main(bundle: str) -> None:
    export(ExportOptions(source=f"{Path(__file__)}:make", output=Path(bundle)))
    seeds = list(range(1000))
    asked = {"height": np.full((len(seeds), 1), 0.5)}
    with load(bundle) as sampler:
        for name, guidance in (("plain", None), ("steered", Steer())):
            x = sampler.sample("dpmpp_2m:20", seeds, asked, guidance=guidance)
            near = np.linalg.norm(x[:, None] - Ring().centres.numpy(), axis=-1).min(1) < 4 * SPREAD
            print(f"{name}: {(x[:, 1] > 0.5).mean():.0%} above the line, {near.mean():.0%} near a cluster")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/steer.py BUNDLE")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"steer: {error}")
