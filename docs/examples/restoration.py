"""Restoration: a small conditional U-Net that sharpens blurred images, in the forms of ResShift and of RDDM.

    python docs/examples/restoration.py FOLDER

Noising leads from the clean image to the degraded one, y, which the spec names by `towards`. The network takes y
besides x. Each bundle is calibrated to int8 along its plan, with degraded images. The weights are random; a real
network would load trained ones. This one returns y plus a correction.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as f

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.runtime import UserError, load

SHAPE = (3, 16, 16)
Y = Condition("y", input="y", shape=SHAPE, dtype="float32", low=-1.0, high=1.0)


class Block(nn.Module):
    def __init__(self, channels: int, out: int, known: int) -> None:
        super().__init__()
        self.norm, self.known = nn.GroupNorm(4, channels), nn.Linear(known, channels)
        self.conv, self.skip = nn.Conv2d(channels, out, 3, padding=1), nn.Conv2d(channels, out, 1)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        h = self.norm(x) + self.known(known)[:, :, None, None]
        result: Tensor = self.skip(x) + self.conv(f.silu(h))
        return result


class Restorer(nn.Module):
    """A U-Net with two resolutions. Its encoder depends only on y, so it is computed once for all steps."""

    def __init__(self, heads: int, timesteps: int, width: int = 16) -> None:
        super().__init__()
        self.heads, self.timesteps = heads, timesteps
        self.time = nn.Sequential(nn.Linear(1, 4 * width), nn.SiLU())
        self.encoder = nn.Sequential(
            nn.Conv2d(SHAPE[0], width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1, stride=2)
        )
        self.first = nn.Conv2d(2 * SHAPE[0], width, 3, padding=1)
        self.fine, self.down = Block(width, width, 4 * width), nn.Conv2d(width, width, 3, padding=1, stride=2)
        self.coarse = Block(2 * width, width, 4 * width)
        self.merge = Block(2 * width, width, 4 * width)
        self.last = nn.Conv2d(width, heads * SHAPE[0], 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, y: Tensor) -> Tensor:
        known = self.time(time[:, None] / self.timesteps)
        fine = self.fine(self.first(torch.cat([x, y], dim=1)), known)
        coarse = self.coarse(torch.cat([self.down(fine), self.encoder(y)], dim=1), known)
        up = f.interpolate(coarse, scale_factor=2.0)
        correction: Tensor = self.last(f.silu(self.merge(torch.cat([up, fine], dim=1), known)))
        return y + correction if self.heads == 1 else correction


def make_resshift() -> tuple[nn.Module, Spec]:
    """Return a network that predicts x0, on ResShift's schedule with the few steps that it was trained with."""
    torch.manual_seed(0)
    schedule = ScheduleSpec("residual-shift", timesteps=4)
    return Restorer(1, 4), Spec("resshift", SHAPE, (Y,), "sample", schedule, towards="y")


def make_rddm() -> tuple[nn.Module, Spec]:
    """Return a network that predicts the residual y - x0 and the noise, as two outputs concatenated along the
    channels."""
    torch.manual_seed(0)
    schedule = ScheduleSpec("rddm", timesteps=1000)
    return Restorer(2, 1000), Spec("rddm", SHAPE, (Y,), "residual", schedule, heads=2, towards="y")


def blur_noise(count: int) -> np.ndarray:
    """Return degraded images [count, *SHAPE] in [-1, 1]: here noise through a box filter, in place of your files."""
    image = np.random.default_rng(0).uniform(-1, 1, (count, *SHAPE)).astype(np.float32)
    for axis in (2, 3):
        image = (np.roll(image, 1, axis) + image + np.roll(image, -1, axis)) / 3
    return image


def main(folder: str) -> None:
    home = Path(folder)
    home.mkdir(parents=True, exist_ok=True)
    np.savez(home / "own.npz", y=blur_noise(16))
    for function, plan in ((make_resshift, "resshift:4"), (make_rddm, "rddm:5")):
        bundle = home / function.__name__
        export(ExportOptions(source=f"{Path(__file__)}:{function.__name__}", output=bundle))
        calibrate(CalibrateOptions(bundle, plan, ("cpu-x86",), trajectories=8, conditions=home / "own.npz"))
        degraded, restored = blur_noise(20)[16:], []
        for precision in ("float32", "int8"):
            with load(bundle, precision) as sampler:
                restored.append(sampler.sample(plan, seeds=range(4), condition={"y": degraded}))
        psnr = 10 * np.log10(4 / np.mean((restored[0] - restored[1]) ** 2))
        print(f"{bundle}: random weights, {len(degraded)} images in {plan}, int8 at {psnr:.1f} dB from float32")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/restoration.py FOLDER")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"restoration: {error}")
