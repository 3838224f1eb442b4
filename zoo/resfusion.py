"""Resfusion (Shi et al. 2024, arXiv 2311.14900) on the images of `zoo/nafnet_residual`: noise and residual are one
prediction.

    python -m lab.train zoo/resfusion --work WORK
    fewstep export zoo/resfusion.py:make -o bundle
    fewstep run bundle --plan ddpm:5 --image degraded.png --strength 1 -c y=@degraded.npy

As in the authors' code, the loss is the squared error of the "resnoise" of equation 24, with which a DDPM step is
correct, at uniform timesteps of a table of 12 that ends where half of x0 is left.
"""

from functools import partial
from itertools import accumulate
from operator import mul

import msgspec
import nafnet_residual as alone
import numpy as np
import torch
from denoising import Draw, Trained
from torch import Tensor, nn

from fewstep.export import ScheduleSpec
from fewstep.models.training import Loss

HALF = 0.25  # alpha^2 at the start of sampling
LINEAR = np.linspace(1e-4, 0.02, 12) * 1000 / 12  # DDPM's betas, for 12 steps
KEPT = LINEAR[np.cumprod(1 - LINEAR) > HALF]
BETAS = (*KEPT.tolist(), 1 - HALF / float(np.prod(1 - KEPT)))
SHARES = tuple(accumulate((1 - beta for beta in BETAS), mul))
DATA, RECIPE = alone.DATA, alone.RECIPE
SPEC = msgspec.structs.replace(
    alone.SPEC,
    name="resfusion",
    prediction="epsilon",
    schedule=ScheduleSpec("betas", len(BETAS), betas=BETAS),
    towards=None,
)


def loss(draw: Draw, count: int) -> Loss:
    """Return the squared error of the resnoise."""

    def errors(network: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        (y,) = batch.conditions
        timestep = torch.randint(len(BETAS), (count,), generator=generator)
        beta, share = (torch.tensor(each)[timestep, None, None, None] for each in (BETAS, SHARES))
        noise, residual = torch.randn(y.shape, generator=generator), y - batch.x0
        x = share.sqrt() * batch.x0 + (1 - share.sqrt()) * residual + (1 - share).sqrt() * noise
        target = noise + (1 - (1 - beta).sqrt()) * (1 - share).sqrt() / beta * residual
        return (network(x, timestep.float(), y).float() - target).square().mean()

    return errors


make = Trained(__file__, partial(alone.Network, len(BETAS)), SPEC)
