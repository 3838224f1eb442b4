"""Export a network trained as in EDM (Karras et al. 2022, arXiv 2206.00364), in both common forms.

    python docs/examples/edm.py FOLDER

`make` returns the raw network F(c_in x, ln(sigma) / 4); its preconditioning (c_in, c_skip, c_out) becomes float32
coefficients of the plan. `make_preconditioned` returns D(x, sigma), which contains the preconditioning. The samples are
compared with EDM's Algorithm 1 in torch. The weights are random; make() would load trained ones.
"""

import sys
from math import log, pi
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
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.002, 80.0, 0.5
STEPS = 6
LABEL = Condition("class", input="label", null=CLASSES, low=0, high=CLASSES - 1)


class Block(nn.Module):
    """Two convolutions, conditioned on noise and class by a scale and a shift. A filter doubles or halves the
    resolution."""

    def __init__(self, channels: int, out: int, known: int, resample: str = "") -> None:
        super().__init__()
        self.resample = resample
        self.register_buffer("filter", torch.full((channels, 1, 2, 2), 1.0 if resample == "up" else 0.25))
        self.norms = nn.ModuleList([nn.GroupNorm(4, channels), nn.GroupNorm(4, out)])
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(out, out, 3, padding=1)])
        self.affine = nn.Linear(known, 2 * out)
        self.skip = nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        if self.resample == "up":
            x = f.conv_transpose2d(x, self.filter, stride=2, groups=x.shape[1])
        elif self.resample == "down":
            x = f.conv2d(x, self.filter, stride=2, groups=x.shape[1])
        scale, shift = self.affine(known)[:, :, None, None].chunk(2, dim=1)
        h = self.convolutions[0](f.silu(self.norms[0](x)))
        h = self.convolutions[1](f.silu(self.norms[1](h) * (1 + scale) + shift))
        return (self.skip(x) + h) * 0.5**0.5


class Network(nn.Module):
    """F: a U-Net with two resolutions. Augmentation labels are only used in training, and are 0 when sampling."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(-log(10000) * torch.arange(width // 2) / (width // 2)))
        self.register_buffer("one_hot", torch.eye(CLASSES + 1, CLASSES))  # the null class is a row of zeros
        self.label, self.map = nn.Linear(CLASSES, width), nn.Linear(width, 2 * width)
        self.first = nn.Conv2d(SHAPE[0], width, 3, padding=1)
        self.down = nn.ModuleList([Block(width, width, 2 * width), Block(width, 2 * width, 2 * width, "down")])
        self.middle = Block(2 * width, 2 * width, 2 * width)
        self.up = nn.ModuleList([Block(4 * width, width, 2 * width, "up"), Block(2 * width, width, 2 * width)])
        self.last = nn.Conv2d(width, SHAPE[0], 3, padding=1)

    def forward(self, x: Tensor, c_noise: Tensor, label: Tensor) -> Tensor:
        angles = c_noise[:, None] * self.frequencies * pi
        known = torch.cat([angles.cos(), angles.sin()], dim=1) + self.label(self.one_hot[label])
        known = f.silu(self.map(known))
        fine = self.down[0](self.first(x), known)
        coarse = self.down[1](fine, known)
        h = self.up[0](torch.cat([self.middle(coarse, known), coarse], dim=1), known)
        output: Tensor = self.last(f.silu(self.up[1](torch.cat([h, fine], dim=1), known)))
        return output


class Preconditioned(nn.Module):
    """D(x, sigma): x0 from a sample with noise of standard deviation sigma, by table 1 of the paper."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor, sigma: Tensor, label: Tensor) -> Tensor:
        s = sigma[:, None, None, None]
        both = s**2 + SIGMA_DATA**2
        output = self.network(x * both**-0.5, sigma.log() / 4, label)
        x0: Tensor = SIGMA_DATA**2 / both * x + s * SIGMA_DATA * both**-0.5 * output
        return x0


def make() -> tuple[nn.Module, Spec]:
    """Return F, which is `net.model` of a published network, and a spec with the range of sigmas for sampling."""
    torch.manual_seed(0)
    schedule = ScheduleSpec("edm", sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX, sigma_data=SIGMA_DATA)
    return Network(), Spec("edm", SHAPE, (LABEL,), "edm", schedule)


def make_preconditioned() -> tuple[nn.Module, Spec]:
    """Return D, which takes sigma itself and returns x0, and its spec."""
    schedule = ScheduleSpec("exploding", sigma_min=SIGMA_MIN, sigma_max=SIGMA_MAX)
    return Preconditioned(make()[0]), Spec("edm-preconditioned", SHAPE, (LABEL,), "sample", schedule)


@torch.no_grad()
def algorithm_1(denoiser: nn.Module, z: Tensor, label: Tensor) -> Tensor:
    """Sample with EDM's deterministic sampler as published: Heun's method over sigmas that are evenly spaced in
    sigma^(1/7)."""
    denoiser = denoiser.double()
    high, low = SIGMA_MAX ** (1 / 7), SIGMA_MIN ** (1 / 7)
    t = torch.cat([torch.linspace(high, low, STEPS, dtype=torch.float64) ** 7, torch.zeros(1)])
    x = z.double() * t[0]
    for i in range(STEPS):
        d = (x - denoiser(x, t[i].expand(len(x)), label)) / t[i]
        ahead = x + (t[i + 1] - t[i]) * d
        if t[i + 1] > 0:
            d = (d + (ahead - denoiser(ahead, t[i + 1].expand(len(x)), label)) / t[i + 1]) / 2
            ahead = x + (t[i + 1] - t[i]) * d
        x = ahead
    return x


def main(folder: str) -> None:
    seeds, labels = [0, 1, 2], [3, 7, 9]
    z = torch.from_numpy(noise.normal_batch(seeds, 0, SHAPE))
    expected = algorithm_1(make_preconditioned()[0].eval(), z, torch.tensor(labels)).numpy()
    for function in (make, make_preconditioned):
        bundle = Path(folder) / function.__name__
        export(ExportOptions(source=f"{Path(__file__)}:{function.__name__}", output=bundle))
        with load(bundle) as sampler:
            x = sampler.sample(f"edm_heun:{STEPS}@karras", seeds, condition={"class": labels})
        difference = np.abs(x - expected).max() / np.abs(expected).max()
        print(f"{bundle}: random weights, {len(x)} samples, {difference:.1e} from Algorithm 1")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/edm.py FOLDER")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"edm: {error}")
