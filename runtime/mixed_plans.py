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
class Cohort:
    """The samples (places in the batch) that follow one plan, and how far they are."""

    plan: Plan
    samples: list[int]
    draws: Draws
    given: Mapping[str, Array]
    feeds: Callable[[int], Feeds]
    last: StepState | None = None

    def state(self) -> Sequence[Array]:
        return begin(self.plan, self.draws, np.float32, self.given) if self.last is None else self.last.after


Call = Callable[[Array, Feeds, int], Array]  # the body on [N, *x_shape] for a range group


def run(cohorts: Sequence[Cohort], call: Call, shared: Sequence[str]) -> Iterator[int]:
    """Run all cohorts to their ends; yields each step's number when it is done.

    `shared` are inputs of the body that all samples have in common: its range group.
    """
    for index in range(max(len(cohort.plan.steps) for cohort in cohorts)):
        going = [cohort for cohort in cohorts if index < len(cohort.plan.steps)]
        for group in sorted({cohort.plan.steps[index].group for cohort in going}):
            with np.errstate(all="ignore"):  # an overflow is found below, and named
                _step(index, [cohort for cohort in going if cohort.plan.steps[index].group == group], call, shared)
        yield index


def _step(index: int, cohorts: Sequence[Cohort], call: Call, shared: Sequence[str]) -> None:
    states = [cohort.state() for cohort in cohorts]
    steps = [cohort.plan.steps[index] for cohort in cohorts]
    inputs = [combine(step.input, state, np.float32) for step, state in zip(steps, states, strict=True)]
    stacked = [np.concatenate([u] * len(step.branches)) for u, step in zip(inputs, steps, strict=True)]
    fed = [cohort.feeds(index) for cohort in cohorts]
    joined = {
        name: fed[0][name] if name in shared else np.concatenate([feeds[name] for feeds in fed]) for name in fed[0]
    }
    results = np.split(call(np.concatenate(stacked), joined, steps[0].group), np.cumsum([len(u) for u in stacked])[:-1])
    for cohort, step, state, u, result in zip(cohorts, steps, states, inputs, results, strict=True):
        check_finite(result, OUTPUT, index, step, cohort.plan)
        outputs = split_outputs(result, step)
        cohort.last = advance(cohort.plan, index, state, u, outputs, cohort.draws, np.float32)
        check_finite_state(cohort.last, cohort.plan)


def split_outputs(result: Array, step: Step) -> list[Array]:
    """The outputs [B, *x_shape] of a call, head by head within branch by branch."""
    by_branch = np.split(result, len(step.branches))
    return [head for branch in by_branch for head in np.split(branch, step.heads, axis=1)]


def collect(cohorts: Sequence[Cohort], samples: int) -> Float32:
    """The samples in the order of the batch."""
    parts = [
        (cohort.samples, finite_sample(cohort.plan, [cohort.last])) for cohort in cohorts if cohort.last is not None
    ]
    result = np.empty((samples, *parts[0][1].shape[1:]), np.float32)
    for places, made in parts:
        result[places] = made
    return result
