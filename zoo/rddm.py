"""RDDM (Liu et al. 2024, arXiv 2308.13712) on the images of `zoo/nafnet_residual`: it predicts residual and noise.

    python -m lab.train zoo/rddm --work WORK
    fewstep export zoo/rddm.py:make -o bundle
    fewstep run bundle --plan rddm:5 -c y=@degraded.npy

As in the authors' code, the loss is the sum of both mean absolute errors at uniform times. That code has a separate
U-Net or decoder for each output; this network has a channel of its last convolution for each.
"""

from functools import partial

import msgspec
import nafnet_residual as alone
import torch
from denoising import Draw, Trained, draw_times, problem
from torch import Tensor, nn

from fewstep.export import ScheduleSpec
from fewstep.models.training import Loss

DATA, RECIPE = alone.DATA, alone.RECIPE
SPEC = msgspec.structs.replace(alone.SPEC, name="rddm", schedule=ScheduleSpec("rddm"), heads=2)


def loss(draw: Draw, count: int) -> Loss:
    """Return the sum of both mean absolute errors."""

    def errors(network: nn.Module, generator: torch.Generator) -> Tensor:
        batch = draw(count, generator)
        times = draw_times(SPEC, count, generator)
        noise = torch.randn(batch.x0.shape, generator=generator)
        asked = problem(SPEC, batch, times, noise)
        made = network(asked.x, torch.tensor(times), *batch.conditions).float()
        return (made - torch.cat([asked.answer, noise], 1)).abs().mean((0, 2, 3)).sum()

    return errors


make = Trained(__file__, partial(alone.Network, SPEC.schedule.timesteps, SPEC.heads), SPEC)
