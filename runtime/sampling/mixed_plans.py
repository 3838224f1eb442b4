"""Run a separate plan for each sample of a batch, with shared network calls.

Uses are a stream of images whose denoising overlaps, and requests of different quality in one batch. Samples share a
call if their steps use the same range group of one network. A plan with fewer steps ends earlier.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.arrays import Arrays, Float32
from fewstep.runtime.sampling.execute import Array, Draws, StepState, advance, begin, network_input
from fewstep.runtime.sampling.finite_checks import check_finite_state, finite_sample
from fewstep.runtime.sampling.step_call import Call, Feeds, split_outputs, stack_branches


def check_count(plans: Any, seeds: int) -> None:
    """Raise UserError unless `plans` is a list with one plan for each seed."""
    if isinstance(plans, str) or not isinstance(plans, Sequence):
        one = str(getattr(plans, "name", plans))
        raise UserError(f"{one!r} is one plan", "give a list with one for each seed, or call `sample`")
    if len(plans) != seeds:
        raise UserError(f"{len(plans)} plans for {seeds} seeds", "give one plan for each seed")


@dataclass
class Cohort:
    """The samples of a batch that follow one plan, by their indexes in the batch, and their last state."""

    plan: Plan
    places: list[int]
    draws: Draws
    given: Mapping[str, Array]
    feeds: Feeds
    last: StepState | None = None

    @property
    def index(self) -> int:
        """The index of the next step, or the number of steps once all are done."""
        return 0 if self.last is None else self.last.index + 1

    @property
    def is_done(self) -> bool:
        return self.index == len(self.plan.steps)

    def state(self) -> Sequence[Array]:
        return begin(self.plan, self.draws, np.float32, self.given) if self.last is None else self.last.after


def run(cohorts: Sequence[Cohort], call: Call, shared: Sequence[str]) -> Iterator[int]:
    """Run all cohorts to their ends. Yields the index of each step after it.

    shared: the names of inputs that are common to all samples, such as the range group.
    """
    for index in range(max(len(cohort.plan.steps) for cohort in cohorts)):
        step([cohort for cohort in cohorts if not cohort.is_done], call, shared)
        yield index


def step(cohorts: Sequence[Cohort], call: Call, shared: Sequence[str]) -> int:
    """Advance each cohort by one step, each at its own index. Returns the number of network calls.

    There is one call for each range group of a network.
    """
    groups: dict[tuple[str, int], list[Cohort]] = {}
    for cohort in cohorts:
        next_step = cohort.plan.steps[cohort.index]
        groups.setdefault((next_step.network, next_step.group), []).append(cohort)
    for _, alike in sorted(groups.items()):
        with np.errstate(all="ignore"):  # `_step_group` reports an overflow with its step
            _step_group(alike, call, shared)
    return len(groups)


def _step_group(cohorts: Sequence[Cohort], call: Call, shared: Sequence[str]) -> None:
    """Advance cohorts by one step in one call. Their steps use the same range group of one network."""
    states = [cohort.state() for cohort in cohorts]
    steps = [cohort.plan.steps[cohort.index] for cohort in cohorts]
    inputs = [
        network_input(cohort.plan, step, state, np.float32)
        for cohort, step, state in zip(cohorts, steps, states, strict=True)
    ]
    x = np.concatenate([stack_branches(u, step) for u, step in zip(inputs, steps, strict=True)])
    fed = _join_feeds([cohort.feeds(cohort.index) for cohort in cohorts], shared)
    result, start = call(x, fed, steps[0].group, steps[0].network).output, 0
    for cohort, step, state, u in zip(cohorts, steps, states, inputs, strict=True):
        rows = result[start : start + len(u) * len(step.branches)]
        index, start = cohort.index, start + len(rows)
        cohort.last = advance(cohort.plan, index, state, u, split_outputs(rows, step), cohort.draws, np.float32)
        check_finite_state(cohort.last, cohort.plan)


def _join_feeds(fed: Sequence[Arrays], shared: Sequence[str]) -> Arrays:
    """Concatenate the inputs of several calls for one call."""
    if len(fed) == 1:
        return fed[0]
    return {name: fed[0][name] if name in shared else np.concatenate([batch[name] for batch in fed]) for name in fed[0]}


def collect(cohorts: Sequence[Cohort], samples: int) -> Float32:
    """Return the samples in the order of the batch."""
    parts = [
        (cohort.places, finite_sample(cohort.plan, [cohort.last])) for cohort in cohorts if cohort.last is not None
    ]
    result = np.empty((samples, *parts[0][1].shape[1:]), np.float32)
    for places, values in parts:
        result[places] = values
    return result


def select_samples(places: Sequence[int], arrays: Arrays) -> dict[str, NDArray[Any]]:
    """Return the samples of arrays [B, ...] at some indexes of a batch."""
    return {name: array[places] for name, array in arrays.items()}
