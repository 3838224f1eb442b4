"""Trajectories of a denoiser along the plan it will be deployed with: where ranges and fits are measured.

The runtime's own sampler runs them, so the body sees exactly the deployed inputs, all branches included. They are
streamed a batch at a time: memory depends on the batch, never on the number of trajectories. A trajectory is its seed:
noise and conditions follow from it, whatever else is in the batch.

Seeds are disjoint by purpose: 0 .. 255 are held out for evaluation, calibration starts at 1 000 000 by default.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime import noise
from fewstep.runtime.backends import Arrays, Network
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition
from fewstep.runtime.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler
from fewstep.runtime.step import StepState

HELD_OUT_SEEDS = range(256)
FIRST_SEED = 1_000_000
BATCH = 8  # trajectories at once
CONDITION_STREAM = 1  # last word of the noise counter; normal noise has 0, so conditions share no bits with it


@dataclass(frozen=True)
class Evaluation:
    """One call of the body for a batch of trajectories.

    `feeds` and `tensors` are its inputs and outputs by name, [branches * B, ...]: the branches of `state.step`, in
    order, one after the other.
    """

    state: StepState
    seeds: Sequence[int]
    feeds: Arrays
    tensors: Arrays


def roll_out(
    sampler: Sampler, plan: Plan, seeds: Sequence[int], progress: Progress = SILENT, batch: int = BATCH
) -> Iterator[Evaluation]:
    """Run `plan` once per seed, with conditions drawn by the seed; yields every evaluation, in batches of trajectories.

    The sampler's denoiser may return more tensors than the body's output (see `observe.watch`).
    """
    conditions = sampler.bundle.manifest.conditions
    for start in range(0, len(seeds), batch):
        part = seeds[start : start + batch]
        drawn = {
            condition.name: np.stack([draw_condition(condition, number, seed) for seed in part])
            for number, condition in enumerate(conditions)
        }
        calls: list[tuple[Arrays, Arrays]] = []
        recording = replace(sampler, denoiser=_recorded(sampler.denoiser, calls))
        for state in recording.steps(plan, part, drawn, plan.guidance):
            feeds, tensors = calls.pop()
            yield Evaluation(state, part, feeds, tensors)
        progress("trajectories", start + len(part), len(seeds))


def _recorded(denoiser: Network, calls: list[tuple[Arrays, Arrays]]) -> Network:
    """The denoiser, leaving its inputs and outputs in `calls`."""

    def record(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        tensors = denoiser(feeds)
        calls.append((feeds, tensors))
        return tensors

    return record


def draw_condition(condition: Condition, number: int, seed: int) -> NDArray[Any]:
    """A value of condition number `number`, uniform in low .. high (both included if integers), fixed by the seed."""
    if condition.low is None or condition.high is None:
        raise UserError(
            f"condition {condition.name!r} has no low and high to draw calibration values from",
            "give them in the spec and export again",
        )
    count = int(np.prod(condition.shape, dtype=np.int64))
    counter = np.zeros((4, count), np.uint64)
    counter[0], counter[2], counter[3] = np.arange(count), number, CONDITION_STREAM
    uniform = (noise.philox(counter, (seed & 0xFFFFFFFF, seed >> 32))[0] + 0.5) * 2.0**-32
    if np.issubdtype(condition.dtype, np.integer):
        values = np.floor(condition.low + uniform * (condition.high - condition.low + 1))
    else:
        values = condition.low + uniform * (condition.high - condition.low)
    shaped: NDArray[Any] = values.astype(condition.dtype).reshape(condition.shape)
    return shaped
