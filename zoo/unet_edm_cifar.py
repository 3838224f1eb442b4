"""The U-Net of the shipped CIFAR-10 denoiser with fewer channels, preconditioned and trained as in EDM (Karras et al.
2022, arXiv 2206.00364)."""

from functools import partial

import pictures
from denoising import Trained

from fewstep.export import ScheduleSpec, Spec
from fewstep.models.cifar10.unet import UNet
from fewstep.models.training import Recipe

SCHEDULE = ScheduleSpec(
    "edm", sigma_min=0.002, sigma_max=80, sigma_data=0.5, time_scale=250
)  # network times: -390 to 270
SPEC = Spec("unet_edm_cifar", (3, 32, 32), (pictures.LABEL,), "edm", SCHEDULE)
RECIPE = Recipe(steps=1_200, batch=16, rate=1e-3, seed=0)
DATA = pictures.CIFAR
make = Trained(__file__, partial(UNet, channels=(16, 40, 72), embedding=128), SPEC)
