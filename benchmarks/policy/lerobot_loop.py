"""LeRobot's own diffusion policy and its bundle, each in the same closed loop, from equal noise.

    python -m benchmarks.policy.lerobot_loop BUNDLE --checkpoint run/checkpoints/last --task fetch-push

prints one line of JSON, of 100 ticks of Fetch: the largest difference of the actions, relative to the largest action,
and the milliseconds of a sequence. Two more differences tell what the simulator adds: that of the bundle's actions on
the observations of LeRobot's loop, and that of LeRobot's loop to itself, with actions one unit in the last place
larger.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.options import parser_of
from benchmarks.policy.fetch import TASKS, Fetch, features_of
from benchmarks.policy.lerobot_folder import policy_folder
from fewstep.plans import noise
from fewstep.robots.control import History, sample_actions
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

Array = NDArray[np.float32]
Observed = Array | NDArray[np.uint8]  # numbers, or a picture
Act = Callable[[dict[str, Observed], int], Array]  # an observation and the number of its tick to an action
TICKS = 100
Drive = Callable[[Act], Array]  # the actions of a loop [ticks, n]


class LeRobotLoop:
    """LeRobot's policy in a folder. `weights` is their number, and `seconds` has the time of each sequence."""

    def __init__(self, folder: Path) -> None:
        from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
        from lerobot.policies.factory import make_pre_post_processors

        torch.set_num_threads(1)
        self._policy = DiffusionPolicy.from_pretrained(folder)
        self._policy.eval()
        self._before, self._after = make_pre_post_processors(self._policy.config, pretrained_path=str(folder))
        self.steps: int = self._policy.config.num_inference_steps
        self.executed: int = self._policy.config.n_action_steps
        self.weights = sum(weight.numel() for weight in self._policy.parameters())
        self.seconds: list[float] = []

    def act(self, observation: dict[str, Observed], tick: int) -> Array:
        """Return the action of a tick; a sequence is sampled where the former is used up."""
        if tick == 0:
            self._policy.reset()
        config = self._policy.config
        batch = self._before({name: to_tensor(value) for name, value in observation.items()})
        drawn = torch.from_numpy(noise.normal_batch([tick], 0, (config.horizon, config.action_feature.shape[0])))
        began = time.process_time()
        action: Array = self._after(self._policy.select_action(batch, noise=drawn))[0].numpy()
        if tick % self.executed == 0:
            self.seconds.append(time.process_time() - began)
        return action


def to_tensor(value: NDArray[np.generic]) -> torch.Tensor:
    """Return numbers as they are, and pictures from 0 to 1, as LeRobot takes them."""
    tensor = torch.from_numpy(value)
    return tensor.float() / 255 if value.dtype == np.uint8 else tensor


@dataclass
class BundleLoop:
    """A bundle along the plan `scheduler:STEPS`. `seconds` has the time of each sequence."""

    sampler: Sampler
    steps: int
    executed: int
    seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._plan, self._history = self.sampler.compile(f"scheduler:{self.steps}"), History(self.sampler)
        self._sequence: list[Array] = []

    def act(self, observation: dict[str, Observed], tick: int) -> Array:
        """Return the action of a tick; a sequence is sampled where the former is used up."""
        if tick == 0:
            self._history.clear()
            self._sequence.clear()
        self._history.add(observation)
        if not self._sequence:
            began = time.process_time()
            actions = sample_actions(self.sampler, self._plan, self._history.window(), tick)
            self.seconds.append(time.process_time() - began)
            self._sequence.extend(actions[: self.executed])
        return self._sequence.pop(0)


def compare(theirs: LeRobotLoop, ours: BundleLoop, drive: Drive) -> dict[str, float]:
    """Return the largest differences of the actions, relative to the largest action, and the median milliseconds of a
    sequence, of the processor's time."""
    seen = list[dict[str, Observed]]()

    def act_and_record(observation: dict[str, Observed], tick: int) -> Array:
        seen.append(observation)
        return theirs.act(observation, tick)

    def act_nudged(observation: dict[str, Observed], tick: int) -> Array:
        return np.nextafter(theirs.act(observation, tick), np.float32(np.inf))

    control = drive(act_and_record)
    replayed = np.stack([ours.act(observation, tick) for tick, observation in enumerate(seen)])
    differences = {"": drive(ours.act), ", on the same observations": replayed, ", LeRobot nudged": drive(act_nudged)}
    largest = np.abs(control).max()
    return {
        "weights": theirs.weights,
        **{f"difference{of}": float(np.abs(actions - control).max() / largest) for of, actions in differences.items()},
        "milliseconds, theirs": round(1e3 * float(np.median(theirs.seconds)), 1),
        "milliseconds, ours": round(1e3 * float(np.median(ours.seconds)), 1),
    }


def drive_fetch(task: str, seed: int, act: Act) -> Array:
    """Return the actions of a loop in Fetch [TICKS, 4]."""
    simulation, sent = Fetch(task), list[Array]()
    observation = simulation.reset(seed)
    while len(sent) < TICKS:
        numbers = {name: observation[name].astype(np.float32) for name in observation.keys() & features_of(task).keys()}
        sent.append(act({**numbers, **simulation.draw()}, len(sent)))
        observation, _ = simulation.step(sent[-1].astype(np.float64))
    return np.stack(sent)


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="a checkpoint of LeRobot's training")
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the episode (default %(default)s)")
    given = parser.parse_args()
    theirs = LeRobotLoop(policy_folder(given.checkpoint))
    with load(given.bundle, backend=OnnxRuntime(threads=1, spinning=False)) as sampler:
        ours = BundleLoop(sampler, theirs.steps, theirs.executed)
        print(json.dumps(compare(theirs, ours, lambda act: drive_fetch(given.task, given.seed, act))))


if __name__ == "__main__":
    main()
