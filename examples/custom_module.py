"""A torch module of one's own becomes a bundle: here a small robot policy, 16 actions of 3 joints from an observation.

    python examples/custom_module.py policy

The weights are random, where a real policy would load its own. On the command line the export is
`fewstep export examples/custom_module.py:make -o policy`.
"""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.export.export import ExportOptions, export
from fewstep.runtime import load

HORIZON, JOINTS = 16, 3
OBSERVATION = (2, 6)  # the last two readings: positions and velocities of the joints
TIMESTEPS = 100


class Policy(nn.Module):
    """Convolutions over time, told of the noise level and the observation by a scale and a shift (FiLM)."""

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
    """What `fewstep export FILE.py:make` calls: the module, and what it does not say about itself."""
    torch.manual_seed(0)
    observation = Condition("observation", "observation", OBSERVATION, "float32", typical=(-1.0, 1.0))
    schedule = ScheduleSpec("cosine", timesteps=TIMESTEPS)
    return Policy(), Spec("policy", (HORIZON, JOINTS), (observation,), "epsilon", schedule)


def main(bundle: str) -> None:
    export(ExportOptions(source=f"{Path(__file__)}:make", output=Path(bundle)))
    with load(bundle) as sampler:
        actions = sampler.sample(
            "ddim:8", seeds=[0, 1], condition={"observation": torch.zeros(2, *OBSERVATION).numpy()}
        )
    print(
        f"{bundle}: two action sequences of shape {list(actions[0].shape)}, the first begins {actions[0, 0].round(3)}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
