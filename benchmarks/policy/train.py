"""Train the policy on a CPU: `python benchmarks/policy/train.py --work FOLDER --data DEMONSTRATIONS [--minutes 60]`.

The second stage goes on from the weights of the first, half of it on hand-overs:

    python benchmarks/policy/train.py --work FOLDER --data DEMONSTRATIONS --handovers FOLDER --weights FILE

The same command goes on where the last one stopped. Conditional flow matching (Lipman et al. 2023, arXiv 2210.02747)
with prefixes of 0 to 8 decided actions; the loss is of the others. The rest is `fewstep.models.training`.
"""

import argparse
import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from demonstrations import CARD, FILE
from experts import RELEARNT
from network import HORIZON, MOST_DELAY, Network
from simulator import TASKS
from torch import Tensor, nn

from fewstep.models.training import Loss, Recipe, train
from fewstep.models.weights import load_weights

RECIPE = Recipe(steps=24_000, batch=128, rate=6e-4, seed=0)
SECOND = Recipe(steps=3_000, batch=64, rate=3e-4, seed=1)  # on demonstrations and hand-overs
UNDELAYED = 0.5  # of the sequences: they have no prefix
WEIGHTS = "policy.safetensors"


class Demonstrations:
    """Windows of the demonstrations: an observation, its task, and the actions from its tick on. Those of the tasks
    `without` are left out."""

    def __init__(self, folder: Path, without: Collection[str] = ()) -> None:
        with np.load(folder / FILE) as arrays:
            self.seen, self.done = torch.from_numpy(arrays["seen"]), torch.from_numpy(arrays["done"])
            used = ~np.isin(arrays["tasks"], [TASKS.index(task) for task in without])
            starts, usable = arrays["starts"][used], arrays["usable"][used]
            places = [start + np.arange(count) for start, count in zip(starts, usable, strict=True)]
            tasks = np.repeat(arrays["tasks"][used], usable)
        self.places, self.tasks = torch.from_numpy(np.concatenate(places)), torch.from_numpy(tasks)
        card = json.loads((folder / CARD).read_text())
        self.low, self.high = torch.tensor(card["low"]), torch.tensor(card["high"])

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Observations [count, 1, 39], tasks [count, 5] and actions [count, 32, 4]."""
        rows = torch.randint(len(self.places), (count,), generator=generator)
        places = self.places[rows]
        task = nn.functional.one_hot(self.tasks[rows], len(TASKS)).float()
        return self.seen[places][:, None], task, self.done[places[:, None] + torch.arange(HORIZON)]


@dataclass(frozen=True)
class Halves:
    """Half of each batch from the one, half from the other."""

    one: Demonstrations
    other: Demonstrations

    def draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """A batch as `Demonstrations.draw` has it."""
        drawn = [self.one.draw(count - count // 2, generator), self.other.draw(count // 2, generator)]
        seen, task, actions = (torch.cat(both) for both in zip(*drawn, strict=True))
        return seen, task, actions


def flow_loss(data: Demonstrations | Halves, count: int) -> Loss:
    """Mean squared error of the velocity, over the actions that are not decided."""

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        assert isinstance(network, Network)
        observation, task, actions = data.draw(count, generator)
        time = torch.rand(count, generator=generator)
        noise = torch.randn(actions.shape, generator=generator)
        delay = torch.randint(1, MOST_DELAY + 1, (count, 1), generator=generator)
        delay = delay * (torch.rand(count, 1, generator=generator) >= UNDELAYED)
        t = time[:, None, None]
        with torch.autocast("cpu", enabled=False):  # millimetres in metres need more than bfloat16
            known = network.encode(observation, task)
        answer = network.predict((1 - t) * actions + t * noise, 100 * time, known, actions, delay.float())
        free = (torch.arange(HORIZON)[None] >= delay)[:, :, None].float()
        error = (answer.float() - (noise - actions)).square() * free
        return error.sum() / (free.sum() * actions.shape[2])

    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of the checkpoint, the loss and the weights")
    parser.add_argument("--data", type=Path, required=True, help="folder that demonstrations.py wrote")
    parser.add_argument("--handovers", type=Path, help="folder that handovers.py wrote: the second stage")
    parser.add_argument("--weights", type=Path, help="of the first stage, for the second")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then, to go on another time")
    parser.add_argument("--threads", type=int, default=2)
    given = parser.parse_args()
    if (given.handovers is None) != (given.weights is None):
        parser.error("the second stage takes --handovers and --weights")
    torch.set_num_threads(given.threads)
    recipe = RECIPE if given.handovers is None else SECOND
    demonstrations = Demonstrations(given.data)
    torch.manual_seed(recipe.seed)
    network = Network(demonstrations.low, demonstrations.high)
    data: Demonstrations | Halves = demonstrations
    if given.handovers is not None:
        load_weights(network, given.weights).train().requires_grad_(True)
        data = Halves(Demonstrations(given.data, without=RELEARNT), Demonstrations(given.handovers))
    arguments = argparse.Namespace(work=given.work, device="cpu", checkpoint_minutes=4, **asdict(recipe))
    train(network, flow_loss(data, recipe.batch), arguments, WEIGHTS, given.minutes)


if __name__ == "__main__":
    main()
