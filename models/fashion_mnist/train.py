"""Train the Fashion-MNIST UNet on a CPU: `python -m fewstep.models.fashion_mnist.train --work FOLDER`.

v-prediction (Salimans & Ho 2022, arXiv 2202.00512) on the cosine schedule (Nichol & Dhariwal 2021, arXiv 2102.09672),
uniform timesteps; the rest is `fewstep.models.training`.
"""

import math

import torch
from torch import Tensor, nn

from fewstep.models.fashion_mnist import data
from fewstep.models.fashion_mnist.unet import NULL_CLASS, WEIGHTS, UNet
from fewstep.models.training import drop_labels, options, train

TIMESTEPS = 1000


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


def main() -> None:
    arguments = options(__doc__, data=data.DEBIAN_FOLDER, data_help="folder of the four idx files", steps=9_000)
    raw_images, raw_labels = data.read(arguments.data)
    images = torch.from_numpy(raw_images.copy())[:, None].float() / 127.5 - 1
    labels = torch.from_numpy(raw_labels.copy()).long()
    alphas_cumprod = cosine_alphas_cumprod().float()

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        drawn = batch(images, labels, arguments.batch, generator)
        x0, label, times, noise = (tensor.to(arguments.device) for tensor in drawn)
        alpha_bar = alphas_cumprod.to(arguments.device)[times][:, None, None, None]
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        v = network(alpha * x0 + sigma * noise, times, label)
        return (v.float() - (alpha * noise - sigma * x0)).square().mean()

    torch.manual_seed(arguments.seed)
    train(UNet(), loss, arguments, WEIGHTS)


if __name__ == "__main__":
    main()
