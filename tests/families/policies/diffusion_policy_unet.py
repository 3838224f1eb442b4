"""diffusion_policy's 1-D U-Net with vector observations, as defined in this project."""

import torch

from fewstep.export import Affine, Condition, Policy, ScheduleSpec, Spec
from fewstep.robots.networks.diffusion_policy import DiffusionPolicy, VectorObservation
from fewstep.robots.networks.unet1d import ConditionalUnet1d

NAME = "Diffusion policy, U-Net (FILE.py:FUNCTION)"
PLAN = "ddim:2@trailing"


def make():
    torch.manual_seed(0)
    network = ConditionalUnet1d(actions=2, condition=2 * 5, widths=(16, 32), time_width=16)
    policy = DiffusionPolicy(network, {"obs": VectorObservation(5)}, observations=2)
    return policy, Spec(
        "unet_policy",
        (8, 2),
        (Condition("obs", "obs", (2, 5), "float32", typical=(-1.0, 1.0)),),
        "sample",
        ScheduleSpec("cosine", timesteps=100),
        units=Affine((100.0, 50.0), (256.0, 0.0)),
        policy=Policy(observations=2, first=1, actions=4),
    )
