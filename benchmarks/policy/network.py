"""The policy: one 1-D U-Net for all tasks, on a flow from noise to 32 actions, that continues actions already decided.

The first `delay` actions of a sequence may be decided already. They come as the condition `prefix`; the network sees
them in the place of noise, and a channel that marks them, and is trained on the rest (Black et al. 2025,
arXiv 2512.05964, with the prefix in input channels instead of a time for each action). `policy.safetensors` is a
finished training; any other is exported with the variable POLICY_WEIGHTS naming its file.
"""

import os
from pathlib import Path

import torch
from simulator import ACTIONS, OBSERVED, TASKS  # type: ignore[import-not-found]
from torch import Tensor, nn

from fewstep.export import Condition, ScheduleSpec, Spec
from fewstep.models.weights import load_weights
from fewstep.plans.errors import UserError
from fewstep.robots.networks.unet1d import ConditionalUnet1d
from fewstep.runtime.bundle.manifest import Policy

HORIZON, EXECUTED, MOST_DELAY = 32, 8, 8
WIDTHS, TIME_WIDTH, KNOWN = (56, 112, 224), 128, 128
LOW, HIGH = (-0.5, 1.0)  # metres, radians or shares: about where observations lie
GRIPPER = (-1.0, 0.0, 0.5, 0.6, 1.0)  # what the experts ask of it
CONSTANT = 1e-3  # an observation that varies by less is left out
WEIGHTS = Path(__file__).with_name("policy.safetensors")


class Network(nn.Module):
    """The velocity noise - actions of x [B, 32, 4] at time [B] in [0, 100].

    Conditions: `observation` [B, 1, 39] as the simulator gives it; `task` [B, 5], one of which is 1; `prefix`
    [B, 32, 4], of which the first `delay` [B, 1] actions are decided.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, low: Tensor | None = None, high: Tensor | None = None) -> None:
        super().__init__()
        low = torch.full((OBSERVED,), LOW) if low is None else low
        high = torch.full((OBSERVED,), HIGH) if high is None else high
        width = high - low
        scale = torch.where(width > CONSTANT, 2 / width.clamp(min=CONSTANT), torch.zeros_like(width))
        self.register_buffer("centre", ((low + high) / 2).half().float())  # training sees what the file will hold
        self.register_buffer("scale", scale.half().float())
        self.encoder = nn.Sequential(
            nn.Linear(OBSERVED + len(TASKS), 256), nn.Mish(), nn.Linear(256, 256), nn.Mish(), nn.Linear(256, KNOWN)
        )
        self.unet = ConditionalUnet1d(ACTIONS, KNOWN, WIDTHS, kernel=5, time_width=TIME_WIDTH, scales=True, marks=1)

    def encode(self, observation: Tensor, task: Tensor) -> Tensor:
        """The features of the scene [B, 128]."""
        numbers = (observation.flatten(1) - self.centre) * self.scale
        return self.encoder(torch.cat([numbers, task], dim=1))

    def predict(self, x: Tensor, time: Tensor, known: Tensor, prefix: Tensor, delay: Tensor) -> Tensor:
        """Return the velocity, from the features of the scene."""
        decided = (torch.arange(HORIZON, device=x.device)[None] < delay)[:, :, None].to(x.dtype)
        return self.unet(torch.cat([decided * prefix + (1 - decided) * x, decided], dim=2), time, known)

    def forward(
        self, x: Tensor, time: Tensor, observation: Tensor, task: Tensor, prefix: Tensor, delay: Tensor
    ) -> Tensor:
        return self.predict(x, time, self.encode(observation, task), prefix, delay)


def spec(typical: tuple[tuple[float, ...], tuple[float, ...]]) -> Spec:
    """The facts for export; `typical` are the least and the greatest observations of the demonstrations."""
    conditions = (
        Condition("observation", "observation", (1, OBSERVED), "float32", typical=typical),
        Condition("task", "task", (len(TASKS),), "float32", low=0.0, high=1.0),
        Condition("prefix", "prefix", (HORIZON, ACTIONS), "float32", default=(0.0,) * HORIZON * ACTIONS),
        Condition("delay", "delay", (1,), "float32", default=(0.0,)),
    )
    rhythm = Policy(1, 0, EXECUTED, prefix="prefix", delay="delay", most_delay=MOST_DELAY, discrete={3: GRIPPER})
    schedule = ScheduleSpec("flow", timesteps=100)
    return Spec("metaworld_policy", (HORIZON, ACTIONS), conditions, "flow", schedule, policy=rhythm)


def make() -> tuple[nn.Module, Spec]:
    """SOURCE of `fewstep export benchmarks/policy/network.py:make`."""
    weights = Path(os.environ.get("POLICY_WEIGHTS", WEIGHTS))
    if not weights.is_file():
        raise UserError(
            f"the weights {weights} are missing", "python -m benchmarks.fetch_weights fetches the trained ones"
        )
    network = load_weights(Network(), weights)
    reach = torch.where(network.scale > 0, 1 / network.scale.clamp(min=1e-3), CONSTANT * torch.ones(OBSERVED))
    low, high = (network.centre - reach).tolist(), (network.centre + reach).tolist()
    return network, spec((tuple(low), tuple(high)))
