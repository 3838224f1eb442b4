"""Training of the CIFAR-10 U-Net: `python -m lab.train cifar10 --work FOLDER --data FOLDER`.

Rectified flow (Liu et al. 2023, arXiv 2209.03003; flow matching, Lipman et al. 2023, arXiv 2210.02747) with horizontal
flips. Times are uniform, so that the ends, where few-step samplers evaluate, are trained as well as the middle. The
training loop is `fewstep.models.training`. On two CPU cores it takes hours; it can be stopped and continued at any
time.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.models.cifar10 import data
from fewstep.models.cifar10.unet import NULL_CLASS, UNet
from fewstep.models.training import Loss, Recipe, drop_labels

RECIPE = Recipe(steps=11_720, batch=64, rate=6e-4, seed=0)


def batch(
    images: Tensor, labels: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a random batch from uint8 images [N, 3, 32, 32]. Return images in [-1, 1], half of them mirrored, their
    labels, times t in [0, 1), and noise."""
    rows = torch.randint(len(images), (size,), generator=generator)
    t = torch.rand(size, generator=generator)
    label = drop_labels(labels[rows], NULL_CLASS, generator)
    noise = torch.randn(size, *images.shape[1:], generator=generator)
    mirrored = torch.rand(size, 1, 1, 1, generator=generator) < 0.5
    x0 = images[rows].float() / 127.5 - 1
    return torch.where(mirrored, x0.flip(3), x0), label, t, noise


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Return the untrained network, and its loss on the split "train" or "test" of the data in a folder."""
    images, labels = map(torch.from_numpy, data.read(folder, split))

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        x0, label, t, noise = batch(images, labels.long(), RECIPE.batch, generator)
        share = t[:, None, None, None]
        velocity = network((1 - share) * x0 + share * noise, 1000 * t, label)
        return (velocity.float() - (noise - x0)).square().mean()

    return UNet(), loss


if __name__ == "__main__":
    raise SystemExit("python -m lab.train cifar10 trains it, in a clone of fewstep")
