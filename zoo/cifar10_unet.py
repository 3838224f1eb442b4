"""A U-Net of 11.8 M weights on CIFAR-10, preconditioned and trained as EDM (Karras et al. 2022, arXiv 2206.00364).

It is the network of `unet_edm_cifar`, wider, with a loss that is computed on the device of the generator.
"""

from functools import partial

import pictures
import torch
from denoising import LOG_SIGMA, Draw, Trained
from torch import Tensor, nn
from unet_edm_cifar import SCHEDULE

from fewstep.export import Spec
from fewstep.models.cifar10.unet import UNet
from fewstep.models.training import Loss, Recipe

SPEC = Spec("cifar10_unet", (3, 32, 32), (pictures.LABEL,), "edm", SCHEDULE)
RECIPE = Recipe(steps=20_000, batch=512, rate=6e-4, seed=0)
DATA = pictures.CIFAR
TRAINS_ON_CUDA = True


def loss(draw: Draw, count: int) -> Loss:
    """The mean squared error of the preconditioned answer F, which has the weight 1 (eq. 8 and table 1)."""

    def edm_loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        mean, deviation = LOG_SIGMA
        logs = mean + deviation * torch.randn(count, generator=generator, device=generator.device)
        logs = logs.clamp(*(torch.tensor((SCHEDULE.sigma_min, SCHEDULE.sigma_max)).log().tolist()))
        noise = torch.randn(batch.x0.shape, generator=generator, device=generator.device)
        sigma = logs.exp()[:, None, None, None]
        noisy = batch.x0 + sigma * noise
        total = (sigma**2 + SCHEDULE.sigma_data**2).sqrt()
        answer = (batch.x0 - noisy * (SCHEDULE.sigma_data / total) ** 2) * total / (sigma * SCHEDULE.sigma_data)
        found = network(noisy / total, SCHEDULE.time_scale * logs / 4, *batch.conditions)
        return (found.float() - answer).square().mean()

    return edm_loss


make = Trained(__file__, partial(UNet, channels=(96, 192, 256)), SPEC)
