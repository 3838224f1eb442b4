"""A transformer policy, and its task in two dimensions: a point passes two walls, each by one of two gaps, to a goal.

    python -m benchmarks.train caching/gaps --work FOLDER

trains the policy on demonstrations that code makes. The expert takes either gap, the nearer one more often, so that a
mean of actions runs into the wall.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from fewstep.export import Condition, Policy, ScheduleSpec, Spec
from fewstep.models.policies.transformer import PolicyTransformer
from fewstep.models.training import Loss, Recipe
from fewstep.models.weights import load_weights
from fewstep.plans.schedule import NoiseSchedule

Floats = NDArray[np.float64]
HORIZON, EXECUTED, LAYERS, SEEN = 16, 8, 8, 7  # numbers seen: position, goal, gaps of both walls
WALLS, HALF_GAP, THICK, GOAL, REACH = (-0.3, 0.3), 0.14, 0.03, 0.9, 0.12
CENTRED = 0.048  # of the expert in a gap
SPEED, SHAKE, TICKS = 0.06, 0.004, 96  # of a tick; deviation of what moves the point besides; of an episode
RECIPE = Recipe(steps=1_400, batch=128, rate=6e-4, seed=0)
SPEC = Spec(
    "gaps",
    (HORIZON, 2),
    (Condition("obs", "obs", (1, SEEN), "float32", typical=(-1.0, 1.0)),),
    "epsilon",
    ScheduleSpec("cosine", timesteps=100),
    policy=Policy(observations=1, first=0, actions=EXECUTED),
)


class Task:
    """Episodes side by side. A wall stops what does not meet a gap."""

    def __init__(self, seeds: range) -> None:
        rngs = [np.random.default_rng(seed) for seed in seeds]
        numbers = np.array([rng.uniform(size=6) for rng in rngs])
        self.position = np.stack([1.6 * numbers[:, 0] - 0.8, np.full(len(seeds), -0.9)], axis=1)
        self.goal = 1.6 * numbers[:, 1] - 0.8
        self.gaps = np.stack([0.6 * numbers[:, 2::2] - 0.75, 0.6 * numbers[:, 3::2] + 0.15], axis=2)  # [N, wall, gap]
        self.shakes = np.stack([rng.normal(size=(TICKS, 2)) for rng in rngs], axis=1)
        self.is_solved, self.tick = np.zeros(len(seeds), bool), 0

    def seen(self) -> Floats:
        """What the policy sees [N, 1, 7]."""
        return np.concatenate([self.position, self.goal[:, None], self.gaps.reshape(-1, 4)], axis=1)[:, None]

    def step(self, actions: Floats) -> None:
        """One tick, by velocities [N, 2] in [-1, 1]."""
        moves = SPEED * np.clip(actions, -1, 1) + SHAKE * self.shakes[self.tick]
        moved = self.position + np.where(self.is_solved[:, None], 0, moves)
        for wall, height in enumerate(WALLS):
            side = np.sign(self.position[:, 1] - height)
            is_open = (np.abs(self.gaps[:, wall] - moved[:, :1]) < HALF_GAP).any(axis=1)
            moved[:, 1] = np.where(~is_open & ((moved[:, 1] - height) * side < 0), self.position[:, 1], moved[:, 1])
        self.position = moved
        ends = np.stack([self.goal, np.full(len(self.goal), GOAL)], axis=1)
        self.is_solved |= np.abs(self.position - ends).max(axis=1) < REACH
        self.tick += 1


def demonstrations(seeds: range) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Observations [ticks, N, 7] and actions [ticks, N, 2] of the expert, and the episodes that it solves [N]."""
    task, draws = Task(seeds), np.random.default_rng(seeds.start).uniform(size=(2, len(seeds)))
    odds = np.exp(-np.abs(task.gaps - task.position[:, :1, None]) / 0.4)
    chosen = (odds[:, :, 0] / odds.sum(2) < draws.T).astype(int)
    gaps = np.take_along_axis(task.gaps, chosen[:, :, None], 2)[:, :, 0]
    observed, acted = [], []
    for _ in range(TICKS):
        x, y = task.position.T
        ends = np.stack([task.goal, np.full(len(x), GOAL)], axis=1)
        for wall, height in reversed([*enumerate(WALLS)]):
            is_aligned = np.abs(x - gaps[:, wall]) < CENTRED
            above = np.stack([gaps[:, wall], np.where(is_aligned, height + 0.15, height - 0.12)], axis=1)
            ends = np.where((y < height + THICK + 0.01)[:, None], above, ends)
        way = ends - task.position
        action = way / np.maximum(np.linalg.norm(way, axis=1, keepdims=True), SPEED)
        observed.append(task.seen()[:, 0])
        acted.append(np.where(task.is_solved[:, None], 0.0, action))
        task.step(acted[-1])
    return np.stack(observed), np.stack(acted), task.is_solved


def network() -> nn.Module:
    """As in Diffusion Policy (Chi et al. 2023, arXiv 2303.04137): 8 layers of self-attention, attention to what is
    seen, and a perceptron."""
    return PolicyTransformer(2, HORIZON, 1, SEEN, layers=LAYERS, heads=4, width=64)


def denoising_loss(count: int) -> Loss:
    """Mean squared error of the noise in sequences of solved demonstrations."""
    observed, acted, is_solved = demonstrations(range(1_000_000, 1_000_000 + 3000))
    acted = np.concatenate([acted, np.zeros((HORIZON, *acted.shape[1:]))])
    seen, actions = (torch.from_numpy(each[:, is_solved]).float() for each in (observed, acted))
    busy = torch.nonzero((actions[:TICKS] != 0).any(2))  # ticks before an end
    schedule = NoiseSchedule(SPEC.schedule)
    times = [schedule.time(float(time)) for time in range(schedule.timesteps)]
    alpha, sigma = (torch.tensor([getattr(time, name) for time in times]).float() for name in ("alpha", "sigma"))

    def loss(network: nn.Module, generator: torch.Generator) -> Tensor:
        tick, episode = busy[torch.randint(len(busy), (count,), generator=generator)].T
        x0 = actions[tick[:, None] + torch.arange(HORIZON), episode[:, None]]
        noise = torch.randn(x0.shape, generator=generator)
        time = torch.randint(len(times), (count,), generator=generator)
        noisy = alpha[time, None, None] * x0 + sigma[time, None, None] * noise
        return F.mse_loss(network(noisy, time.float(), seen[tick, episode][:, None]).float(), noise)

    return loss


def training(folder: Path | None, split: str) -> tuple[nn.Module, Loss]:
    """Of demonstrations that code makes, whatever the split."""
    return network(), denoising_loss(RECIPE.batch)


def make() -> tuple[nn.Module, Spec]:
    return load_weights(network(), Path(__file__).with_suffix(".safetensors")), SPEC
