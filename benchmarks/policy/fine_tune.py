"""Fine-tune the policy for one step: `simulator/bin/python -m benchmarks.policy.fine_tune WORK --weights FILE`.

WORK/demonstrations.npz gets the successes of the policy itself in three int8 steps, each with 32 more ticks. The policy
is trained on them with times that are shifted towards noise, where a plan of one step evaluates it. The weights are
WORK/policy.safetensors, for `benchmarks.policy.success_rates`. The same command continues an interrupted training.
"""

import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.options import parser_of, positive
from benchmarks.policy.rollouts import Course, episodes_of, run
from benchmarks.policy.simulator import TASKS
from benchmarks.policy.success_rates import prepare
from benchmarks.policy.verdicts import Contender
from fewstep.models.training import Loss, Recipe, train
from fewstep.models.weights import load_weights, write_weights
from fewstep.runtime import Sampler, load
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

RECIPE = Recipe(steps=700, batch=32, rate=2e-4, seed=2)
PLAN, EPISODES, FIRST_SEED = "dpmpp_2m:3", 50, 3_000_000  # of the demonstrations of each task
SHIFT = 3.0  # of the times
DELAYED = 0.2  # share of the sequences that continue decided actions
HORIZON = 32  # ticks of a sequence

Arrays = dict[str, NDArray[np.generic]]


@dataclass
class Recorded(Course):
    """An episode that goes on for HORIZON ticks after its success, and keeps its actions."""

    done: list[NDArray[np.float32]] = field(default_factory=list)
    won: int | None = None  # ticks until the success

    def move(self) -> bool:
        assert self.runner is not None
        action = self.runner.action().value
        assert action is not None
        self.done.append(np.asarray(action, np.float32))
        self.observation, solved = self.simulation.step(action)
        if solved and self.won is None:
            self.won = len(self.done)
        return self.won is not None and len(self.done) == self.won + HORIZON


def record(sampler: Sampler, per_task: int = EPISODES) -> Arrays:
    """Return the successes of the policy in three steps: observations `seen` and actions `done` of all ticks. For each
    episode `starts` has its first tick, `usable` the number of ticks until its success, and `tasks` its task."""
    courses: list[Recorded] = []

    def make_course(*state: Any) -> Recorded:
        courses.append(Recorded(*state))
        return courses[-1]

    episodes = episodes_of(per_task, first=FIRST_SEED)
    for _ in run(Contender("recorded", plan=PLAN, precision="int8"), sampler, episodes, course_of=make_course):
        pass
    kept = [each for each in courses if each.won is not None and len(each.done) == each.won + HORIZON]
    lengths = np.array([len(each.done) for each in kept])
    return {
        "seen": np.concatenate([np.asarray(each.seen, np.float32) for each in kept]),
        "done": np.concatenate([np.stack(each.done) for each in kept]),
        "starts": np.cumsum(lengths) - lengths,
        "usable": np.array([each.won for each in kept]),
        "tasks": np.array([TASKS.index(each.episode[0]) for each in kept]),
    }


def shift_times(time: Tensor) -> Tensor:
    """Move times in [0, 1] towards noise, which is at 1."""
    return SHIFT * time / (1 + (SHIFT - 1) * time)


def policy_module() -> ModuleType:
    """Import network.py, which imports modules of its folder, as `fewstep export` does."""
    sys.path.append(str(Path(__file__).parent))
    return importlib.import_module("network")


def shifted_loss(policy: ModuleType, arrays: Arrays, count: int) -> Loss:
    """Return the mean squared error of the velocity at shifted times, over the actions that are not decided."""
    windows = zip(arrays["starts"], arrays["usable"], strict=True)
    places = torch.from_numpy(np.concatenate([start + np.arange(usable) for start, usable in windows]))
    tasks = torch.from_numpy(np.repeat(arrays["tasks"], arrays["usable"]))
    seen, done = torch.from_numpy(arrays["seen"]), torch.from_numpy(arrays["done"])

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(network, policy.Network)

        def draw(*shape: int) -> Tensor:
            return torch.rand(shape, generator=generator)

        rows = torch.randint(len(places), (count,), generator=generator)
        actions = done[places[rows][:, None] + torch.arange(HORIZON)]
        time = shift_times(draw(count))
        noise = torch.randn(actions.shape, generator=generator)
        delay = torch.randint(1, policy.MOST_DELAY + 1, (count, 1), generator=generator) * (draw(count, 1) < DELAYED)
        share = time[:, None, None]
        with torch.autocast("cpu", enabled=False):  # millimetres in metres need more than bfloat16
            known = network.encode(seen[places[rows]][:, None], nn.functional.one_hot(tasks[rows], len(TASKS)).float())
        answer = network.predict((1 - share) * actions + share * noise, 100 * time, known, actions, delay.float())
        free = (torch.arange(HORIZON)[None] >= delay)[:, :, None].float()
        error = (answer.float() - (noise - actions)).square() * free
        return error.sum() / (free.sum() * actions.shape[2])

    return loss


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--share", type=float, default=1.0, help="of the trained weights in a mean with the old ones")
    parser.add_argument("--threads", type=positive, default=1, help="of the training (default %(default)s)")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(given.threads)
    recorded = given.work / "demonstrations.npz"
    if not recorded.exists():
        backend = OnnxRuntime(threads=1, spinning=False)
        with load(prepare(given.work, given.weights), precision="int8", backend=backend) as sampler:
            np.savez(recorded, **record(sampler))  # type: ignore[arg-type]
    policy = policy_module()
    with np.load(recorded) as arrays:
        loss = shifted_loss(policy, dict(arrays), RECIPE.batch)
    network = load_weights(policy.Network(), given.weights).train().requires_grad_(True)
    train(network, loss, RECIPE, given.work, "policy.safetensors")
    if given.share != 1:
        old, new = (load_weights(policy.Network(), each) for each in (given.weights, given.work / "policy.safetensors"))
        means = {name: old.state_dict()[name].lerp(tensor, given.share) for name, tensor in new.state_dict().items()}
        write_weights(means, given.work / "mean.safetensors")


if __name__ == "__main__":
    main()
