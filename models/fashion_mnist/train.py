"""The training of the Fashion-MNIST UNet: `python -m lab.train fashion_mnist --work FOLDER`.

v-prediction (Salimans & Ho 2022, arXiv 2202.00512) on the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672),
uniform timesteps; the rest is `fewstep.models.training`.
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
    """Nichol & Dhariwal 2021, equation 17, betas capped at 0.999. float64 [1000]."""
    f = torch.cos((torch.arange(TIMESTEPS + 1, dtype=torch.float64) / TIMESTEPS + 0.008) / 1.008 * math.pi / 2) ** 2
    betas = (1 - f[1:] / f[:-1]).clamp(max=0.999)
    return (1 - betas).cumprod(0)


def batch(
    images: Tensor, labels: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images, labels, timesteps and noise of one step."""
    rows = torch.randint(len(images), (size,), generator=generator)
    times = torch.randint(TIMESTEPS, (size,), generator=generator)
    label = drop_labels(labels[rows], NULL_CLASS, generator)
    return images[rows], label, times, torch.randn(size, 1, 28, 28, generator=generator)


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """The network before its training, and its loss on "train" or "test" of the data; None is Debian's folder."""
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
