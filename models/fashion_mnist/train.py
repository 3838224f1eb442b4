"""Training of the Fashion-MNIST U-Net: `python -m lab.train fashion_mnist --work FOLDER`.

v-prediction (Salimans & Ho 2022, arXiv 2202.00512) on the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672)
with uniform timesteps. The training loop is `fewstep.models.training`.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.unet import NULL_CLASS, UNet
from fewstep.models.training import Loss, Recipe, drop_labels

TIMESTEPS = 1000
RECIPE = Recipe(steps=6_000, batch=64, rate=6e-4, seed=0)


def cosine_alphas_cumprod() -> Tensor:
    """Return alpha_bar of Nichol & Dhariwal 2021, equation 17, with betas capped at 0.999, as float64 [1000]."""
    f = torch.cos((torch.arange(TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return (1 - betas).cumprod(0)


def batch(
    images: Tensor, labels: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw the random images, labels, timesteps and noise of one training step."""
    rows = torch.randint(len(images), (size,), generator=generator)
    times = torch.randint(TIMESTEPS, (size,), generator=generator)
    label = drop_labels(labels[rows], NULL_CLASS, generator)
    return images[rows], label, times, torch.randn(size, 1, 28, 28, generator=generator)


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Return the untrained network, and its loss on the split "train" or "test" of the data. A folder of None means the
    folder of Debian's package."""
    raw_images, raw_labels = data.read(folder, split)
    images = torch.from_numpy(raw_images.copy())[:, None].float() / 127.5 - 1
    labels = torch.from_numpy(raw_labels.copy()).long()
    alphas_cumprod = cosine_alphas_cumprod().float()

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        x0, label, times, noise = batch(images, labels, RECIPE.batch, generator)
        alpha_bar = alphas_cumprod[times][:, None, None, None]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        v = network(alpha * x0 + sigma * noise, times, label)
        return (v.float() - (alpha * noise - sigma * x0)).square().mean()

    return UNet(), loss


if __name__ == "__main__":
    raise SystemExit("python -m lab.train fashion_mnist trains it, in a clone of fewstep")
