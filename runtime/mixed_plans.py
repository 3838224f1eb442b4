"""Run a plan for each sample of a batch in steps that share one network call.

It serves a stream of images whose denoising overlaps, or requests of different quality in one batch. Samples share a
call if their steps use the same range group. A plan with fewer steps ends earlier.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.plan import Plan, Step
from fewstep.runtime.execute import Array, Draws, StepState, advance, begin, combine
from fewstep.runtime.finite import OUTPUT, check_finite, check_finite_state, finite_sample

Float32 = NDArray[np.float32]
Feeds = Mapping[str, NDArray[Any]]


@dataclass
class PlanLane:
    """One plan on its way, with the samples (places in the batch) that follow it."""

    plan: Plan
    samples: list[int]
    draws: Draws
    given: Mapping[str, Array]
    feeds: Callable[[int], Feeds]
    last: StepState | None = None

    def state(self) -> Sequence[Array]:
        return begin(self.plan, self.draws, np.float32, self.given) if self.last is None else self.last.after


Call = Callable[[Array, Feeds, int], Array]  # the body on [N, *x_shape] for a range group


def run(lanes: Sequence[PlanLane], call: Call, shared: Sequence[str]) -> Iterator[int]:
    """Run all lanes to their ends; yields each step's number when it is done. `shared` are inputs of the body that all
    rows have in common: its range group."""
    for index in range(max(len(lane.plan.steps) for lane in lanes)):
        going = [lane for lane in lanes if index < len(lane.plan.steps)]
        for group in sorted({lane.plan.steps[index].group for lane in going}):
            with np.errstate(all="ignore"):  # an overflow is found below, and named
                _step(index, [lane for lane in going if lane.plan.steps[index].group == group], call, shared)
        yield index


def _step(index: int, lanes: Sequence[PlanLane], call: Call, shared: Sequence[str]) -> None:
    states = [lane.state() for lane in lanes]
    steps = [lane.plan.steps[index] for lane in lanes]
    inputs = [combine(step.input, state, np.float32) for step, state in zip(steps, states, strict=True)]
    stacked = [np.concatenate([u] * len(step.branches)) for u, step in zip(inputs, steps, strict=True)]
    fed = [lane.feeds(index) for lane in lanes]
    joined = {
        name: fed[0][name] if name in shared else np.concatenate([feeds[name] for feeds in fed]) for name in fed[0]
    }
    results = np.split(call(np.concatenate(stacked), joined, steps[0].group), np.cumsum([len(u) for u in stacked])[:-1])
    for lane, step, state, u, result in zip(lanes, steps, states, inputs, results, strict=True):
        check_finite(result, OUTPUT, index, step, lane.plan)
        outputs = split_outputs(result, step)
        lane.last = advance(lane.plan, index, state, u, outputs, lane.draws, np.float32)
        check_finite_state(lane.last, lane.plan)


def split_outputs(result: Array, step: Step) -> list[Array]:
    """The outputs [B, *x_shape] of a call, head by head within branch by branch."""
    by_branch = np.split(result, len(step.branches))
    return [head for branch in by_branch for head in np.split(branch, step.heads, axis=1)]


def collect(lanes: Sequence[PlanLane], samples: int) -> Float32:
    """The samples in the order of the batch."""
    parts = [(lane.samples, finite_sample(lane.plan, [lane.last])) for lane in lanes if lane.last is not None]
    result = np.empty((samples, *parts[0][1].shape[1:]), np.float32)
    for places, made in parts:
        result[places] = made
    return result
