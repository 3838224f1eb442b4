"""A U-Net of 8.9 M weights on CIFAR-10, preconditioned and trained as `cifar10_unet`, for a CPU.

From random weights a CPU does not get far in an hour. So the training starts from the shipped denoiser `cifar10`, whose
channels are copied. Its output is a velocity, and the training turns it into F of EDM.
"""

from functools import partial

import cifar10_unet
import torch
from denoising import Trained
from members import SHIPPED
from torch.nn import functional as F
from widening import Channels, widen_unet

from fewstep.export import Spec
from fewstep.models.blocks import time_features
from fewstep.models.cifar10.unet import UNet, load
from fewstep.models.training import Recipe

SCHEDULE = cifar10_unet.SCHEDULE
SPEC = Spec("cifar10_unet_cpu", (3, 32, 32), cifar10_unet.SPEC.conditions, "edm", SCHEDULE)
RECIPE = Recipe(steps=3_800, batch=32, rate=5e-4, seed=0)
DATA = cifar10_unet.DATA
SHIPPED_CHANNELS: Channels = (48, 96, 192)
CHANNELS: Channels = (64, 128, 256)
TIMES, FIT_STEPS = 512, 1_000  # noise levels, and steps of Adam, that fit the new time features to the old ones
loss = cifar10_unet.loss


def network() -> UNet:
    """Return the shipped denoiser with more channels, before it is trained with another preconditioning.

    F of EDM rises where the velocity falls, so the output changes its sign.
    """
    old = load(next(member.weights for member in SHIPPED if member.name == "cifar10"))
    weights = widen_unet(old.state_dict(), SHIPPED_CHANNELS, CHANNELS)
    for name in ("conv_out.weight", "conv_out.bias"):
        weights[name] = -weights[name]
    wide = UNet(CHANNELS)
    wide.load_state_dict(weights, strict=False)
    _fit_times(wide, old)
    return wide


@torch.enable_grad()  # a card makes the untrained network without gradients
def _fit_times(wide: UNet, old: UNet) -> None:
    """Fit the embedding of log sigma to that of sigma / (1 + sigma), the time of equal noise on a straight path."""
    first, last = (torch.tensor(sigma).log().item() for sigma in (SCHEDULE.sigma_min, SCHEDULE.sigma_max))
    logs = torch.linspace(first, last, TIMES)
    with torch.no_grad():
        answer = F.silu(old.time_mlp(time_features(1000 * logs.sigmoid(), old.features)))
    features = time_features(SCHEDULE.time_scale * logs / 4, wide.features)
    optimizer = torch.optim.Adam(wide.time_mlp.parameters(), lr=2e-3)
    for _ in range(FIT_STEPS):
        optimizer.zero_grad()
        (F.silu(wide.time_mlp(features)) - answer).square().mean().backward()
        optimizer.step()


make = Trained(__file__, partial(UNet, channels=CHANNELS), SPEC)
