"""Projected guidance (`plans.shaping.Project`) in the recordings of a pipeline.

A recording with small random outputs shows the weight, the momentum and the projection, as no limit shortens the
differences of its outputs. One with outputs of deviation 1 shows the limit. All are found by least squares.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from msgspec.structs import replace as with_fields
from numpy.typing import NDArray

from fewstep.pipelines.recording.fit import TOLERANCE, fit, round_number
from fewstep.plans.shaping import Project, apply

Array = NDArray[np.float64]
ERROR = 2e-5  # of a number that is found in small outputs, relative to it
SMALL = 2.0**-12  # the deviation of small outputs


@dataclass(frozen=True)
class GuidedStep:
    """The conditional and the unconditional output of a step, and what the pipeline passes to the scheduler (`target`),
    each [rows, ...]."""

    cond: Array
    uncond: Array
    target: Array

    @property
    def difference(self) -> Array:
        return self.cond - self.uncond


def find_projection(
    steps: Sequence[GuidedStep], small: Sequence[GuidedStep]
) -> tuple[Project, tuple[float, ...]] | None:
    """Return projected guidance and its weight at each step, or None if projected guidance does not explain the steps.

    steps, small: two recordings with the same settings; in the second, the network's outputs are small.
    """
    if len(steps) < 2 or len(steps) != len(small):
        return None
    start = next((index for index, step in enumerate(steps) if not _is_plain(step)), 0)
    for candidate in _candidates(steps[0].target.ndim, sorted({0, start})):
        if (free := _fit_without_limit(candidate, small)) is None:
            continue
        weights = fit_weights(free, small)
        if weights is None or min(weights) < 0:  # as if the other branch were the conditional one
            continue
        form = _with_limit(free, steps, weights)
        own = None if form is None else fit_weights(form, steps)
        if form is not None and own is not None and np.allclose(own, weights, atol=1e-4):
            return form, own
    return None


def fit_weights(form: Project, steps: Sequence[GuidedStep]) -> tuple[float, ...] | None:
    """Return the weight of guidance of each step, or None if a step does not agree with this guidance."""
    weights = []
    for index, step in enumerate(steps):
        base, update = _terms(form, steps, index)
        rest, offset = step.target - base, 0.0 if form.from_uncond else 1.0
        factor = float((rest * update).sum() / (update * update).sum())
        if np.abs(factor * update - rest).max() > TOLERANCE * np.abs(step.target).max():
            return None
        weights.append(round_number(factor, ERROR) + offset)
    return tuple(weights)


def _candidates(dimensions: int, starts: Sequence[int]) -> Iterator[Project]:
    for start, axis, from_uncond in product(starts, (None, *range(-1, -dimensions, -1)), (True, False)):
        yield Project(axis=axis, from_uncond=from_uncond, start=start)


def _is_plain(step: GuidedStep) -> bool:
    """Return True if the target is a sum of the outputs with weights that sum to 1."""
    weights, residual = fit([step.cond, step.uncond], step.target)
    return residual <= TOLERANCE and abs(sum(weights) - 1) < 1e-4


def _fit_without_limit(candidate: Project, small: Sequence[GuidedStep]) -> Project | None:
    """Return the candidate with eta and momentum fitted to the first projected step that has a projected step before
    it. None if there is no such step, or if no values fit."""
    index = max(candidate.start, 1)
    if index >= len(small):
        return None
    step = small[index]
    rest = step.target - _base(candidate, step)
    columns = [_across(candidate, earlier.difference, step.cond) for earlier in small[index::-1]]
    factors, residual = fit(columns, _across(candidate, rest, step.cond))
    if residual > TOLERANCE or abs(factors[0]) < TOLERANCE:
        return None
    form = with_fields(candidate, momentum=round_number(factors[1] / factors[0], ERROR))
    average = _average(form, small, index)
    along = average - _across(form, average, step.cond)
    return with_fields(form, eta=round_number(float((rest * along).sum() / (along * along).sum() / factors[0]), ERROR))


def _across(form: Project, value: Array, cond: Array) -> Array:
    """Return the part of a value that is orthogonal to the conditional output."""
    across: Any = apply(Project(axis=form.axis), [value, cond])
    return across


def _with_limit(form: Project, steps: Sequence[GuidedStep], weights: Sequence[float]) -> Project | None:
    """Return the guidance with the limit that shortens differences in these steps, if any does. None if the steps do
    not have one limit."""
    offset, limits = 0.0 if form.from_uncond else 1.0, []
    for index in range(form.start, len(steps)):
        base, update = _terms(form, steps, index)
        average = _average(form, steps, index)
        axes = tuple(range(1, average.ndim)) if form.axis is None else (form.axis,)
        rest = (steps[index].target - base) / (weights[index] - offset)
        shares = (rest * update).sum(axis=axes) / (update * update).sum(axis=axes)
        norms = np.sqrt((average * average).sum(axis=axes))
        limits += [share * norm for share, norm in zip(shares.ravel(), norms.ravel(), strict=True) if share < 1 - 1e-4]
    if not limits:
        return form
    limit = round_number(float(np.median(limits)), ERROR)
    return with_fields(form, limit=limit) if limit > 0 else None


def _average(form: Project, steps: Sequence[GuidedStep], index: int) -> Array:
    """Return the averaged difference of the outputs at a step."""
    average: Array = np.zeros_like(steps[0].target)
    for step in steps[: index + 1]:
        average = step.difference + form.momentum * average
    return average


def _base(form: Project, step: GuidedStep) -> Array:
    """Return the output to which the update is added."""
    return step.uncond if form.from_uncond else step.cond


def _terms(form: Project, steps: Sequence[GuidedStep], index: int) -> tuple[Array, Array]:
    """Return the output to which the update is added at a step, and the update."""
    step = steps[index]
    if index < form.start:
        return _base(form, step), step.difference
    update: Any = apply(form, [_average(form, steps, index), step.cond])
    return _base(form, step), update
