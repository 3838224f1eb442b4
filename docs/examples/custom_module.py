"""Export your own torch module: here a small robot policy, which samples 16 actions of 3 joints from an observation.

    python docs/examples/custom_module.py policy

The weights are random; a real policy would load trained ones. On the command line, the export is `fewstep export
docs/examples/custom_module.py:make -o policy`.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from fewstep.export import Affine, Condition, Policy, ScheduleSpec, Spec
from fewstep.export.export import export
from fewstep.export.export_options import ExportOptions
from fewstep.plans.shaping import Clip
from fewstep.runtime import UserError, load

HORIZON, JOINTS = 16, 3
OBSERVATION = (2, 6)  # the last two readings: positions and velocities of the joints
TIMESTEPS = 100


class Denoiser(nn.Module):
    """Convolutions over time, conditioned on the noise level and the observation by a scale and a shift (FiLM)."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        known = 1 + OBSERVATION[0] * OBSERVATION[1]
        self.encoder = nn.Sequential(nn.Linear(known, width), nn.Mish(), nn.Linear(width, 2 * width))
        self.first = nn.Conv1d(JOINTS, width, 5, padding=2)
        self.last = nn.Conv1d(width, JOINTS, 5, padding=2)

    def forward(self, x: Tensor, time: Tensor, observation: Tensor) -> Tensor:
        known = torch.cat([time[:, None] / TIMESTEPS, observation.flatten(1)], dim=1)
        scale, shift = self.encoder(known)[:, :, None].chunk(2, dim=1)
        h = nn.functional.mish(self.first(x.transpose(1, 2)) * (1 + scale) + shift)
        actions: Tensor = self.last(h).transpose(1, 2)
        return actions


def make() -> tuple[nn.Module, Spec]:
    """Return the module, and a spec with the facts that cannot be read from it. `fewstep export FILE.py:make` calls
    this function."""
    torch.manual_seed(0)
    observation = Condition("observation", "observation", OBSERVATION, "float32", typical=(-1.0, 1.0))
    schedule = ScheduleSpec("cosine", timesteps=TIMESTEPS)
    units = Affine(scale=(1.57,) * JOINTS, shift=(0.0,) * JOINTS)  # radians
    rhythm = Policy(observations=2, first=1, actions=8)  # the first of 16 actions is in the past, and 8 are executed
    shape = (HORIZON, JOINTS)
    return Denoiser(), Spec("policy", shape, (observation,), "epsilon", schedule, units=units, policy=rhythm)


def main(bundle: str) -> None:
    export(ExportOptions(source=f"{Path(__file__)}:make", output=Path(bundle)))
    with load(bundle) as sampler:
        plan = sampler.compile("ddim:8", shaping=Clip(-1.0, 1.0))  # actions have limits
        actions = sampler.to_units(sampler.sample(plan, [0, 1], {"observation": np.zeros((2, *OBSERVATION))}))
    shape, first = list(actions[0].shape), actions[0, 0].round(3)
    print(f"{bundle}: random weights, two action sequences of shape {shape}, the first begins {first}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/examples/custom_module.py BUNDLE")
    try:
        main(*sys.argv[1:])
    except UserError as error:
        sys.exit(f"custom_module: {error}")
