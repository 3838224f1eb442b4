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

from fewstep.plans.shaping import Project, apply

Array = NDArray[np.float64]
TOLERANCE = 1e-5  # largest error of a relation, relative to the largest value
SMALL = 2.0**-12  # the deviation of small outputs


@dataclass(frozen=True)
class ProjectedGuidance:
    """Projected guidance with two branches. `form` has its parameters, and `branch` is the index of the conditional
    branch."""

    form: Project
    branch: int


@dataclass(frozen=True)
class GuidedStep:
    """The outputs of a step's branches, and what the pipeline passes to the scheduler (`target`), each [rows, ...]."""

    outputs: Sequence[Array]
    target: Array


def find_projection(
    steps: Sequence[GuidedStep], small: Sequence[GuidedStep]
) -> tuple[ProjectedGuidance, tuple[float, ...]] | None:
    """Return projected guidance and its weight at each step, or None if projected guidance does not explain the steps.

    steps, small: two recordings with the same settings; in the second, the network's outputs are small.
    """
    if len(steps) < 2 or len(steps) != len(small) or any(len(each.outputs) != 2 for each in (*steps, *small)):
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


def fit_weights(guidance: ProjectedGuidance, steps: Sequence[GuidedStep]) -> tuple[float, ...] | None:
    """Return the weight of guidance of each step, or None if a step does not agree with this guidance."""
    weights = []
    for index, step in enumerate(steps):
        if len(step.outputs) != 2:
            return None
        base, update = _terms(guidance, steps, index)
        rest, offset = step.target - base, 0.0 if guidance.form.from_uncond else 1.0
        factor = float((rest * update).sum() / (update * update).sum())
        if np.abs(factor * update - rest).max() > TOLERANCE * np.abs(step.target).max():
            return None
        weights.append(_round(factor) + offset)
    return tuple(weights)


def _candidates(dimensions: int, starts: Sequence[int]) -> Iterator[ProjectedGuidance]:
    axes = (None, *range(-1, -dimensions, -1))
    for start, axis, branch, from_uncond in product(starts, axes, (0, 1), (True, False)):
        yield ProjectedGuidance(Project(axis=axis, from_uncond=from_uncond, start=start), branch)


def _is_plain(step: GuidedStep) -> bool:
    """Return True if the target is a sum of the outputs with weights that sum to 1."""
    columns = np.stack([each.ravel() for each in step.outputs], axis=1)
    weights, *_ = np.linalg.lstsq(columns, step.target.ravel(), rcond=None)
    error = np.abs(columns @ weights - step.target.ravel()).max()
    return bool(error <= TOLERANCE * np.abs(step.target).max() and abs(weights.sum() - 1) < 1e-4)


def _fit_without_limit(candidate: ProjectedGuidance, small: Sequence[GuidedStep]) -> ProjectedGuidance | None:
    """Return the candidate with eta and momentum fitted to the first projected step that has a projected step before
    it. None if there is no such step, or if no values fit."""
    index = max(candidate.form.start, 1)
    if index >= len(small):
        return None
    step = small[index]
    cond, uncond = step.outputs[candidate.branch], step.outputs[1 - candidate.branch]
    base = uncond if candidate.form.from_uncond else cond
    columns = [_across(candidate, _difference(candidate, each), cond).ravel() for each in small[index::-1]]
    rest, matrix = step.target - base, np.stack(columns, axis=1)
    across = _across(candidate, rest, cond)
    factors, *_ = np.linalg.lstsq(matrix, across.ravel(), rcond=None)
    error = np.abs(matrix @ factors - across.ravel()).max()
    if error > TOLERANCE * np.abs(step.target).max() or abs(factors[0]) < TOLERANCE:
        return None
    found = ProjectedGuidance(with_fields(candidate.form, momentum=_round(factors[1] / factors[0])), candidate.branch)
    average = _average(found, small, index)
    along = average - _across(found, average, cond)
    eta = _round(float((rest * along).sum() / (along * along).sum() / factors[0]))
    return ProjectedGuidance(with_fields(found.form, eta=eta), candidate.branch)


def _across(guidance: ProjectedGuidance, value: Array, cond: Array) -> Array:
    """Return the part of a value that is orthogonal to the conditional output."""
    across: Any = apply(Project(axis=guidance.form.axis), [value, cond])
    return across


def _difference(guidance: ProjectedGuidance, step: GuidedStep) -> Array:
    """Return the conditional output without the unconditional one."""
    return step.outputs[guidance.branch] - step.outputs[1 - guidance.branch]


def _with_limit(
    guidance: ProjectedGuidance, steps: Sequence[GuidedStep], weights: Sequence[float]
) -> ProjectedGuidance | None:
    """Return the guidance with the limit that shortens differences in these steps, if any does. None if the steps do
    not have one limit."""
    offset, limits = 0.0 if guidance.form.from_uncond else 1.0, []
    for index in range(guidance.form.start, len(steps)):
        base, update = _terms(guidance, steps, index)
        average = _average(guidance, steps, index)
        axes = tuple(range(1, average.ndim)) if guidance.form.axis is None else (guidance.form.axis,)
        rest = (steps[index].target - base) / (weights[index] - offset)
        shares = (rest * update).sum(axis=axes) / (update * update).sum(axis=axes)
        norms = np.sqrt((average * average).sum(axis=axes))
        limits += [share * norm for share, norm in zip(shares.ravel(), norms.ravel(), strict=True) if share < 1 - 1e-4]
    if not limits:
        return guidance
    limit = _round(float(np.median(limits)))
    if not limit > 0:
        return None
    return ProjectedGuidance(with_fields(guidance.form, limit=limit), guidance.branch)


def _average(guidance: ProjectedGuidance, steps: Sequence[GuidedStep], index: int) -> Array:
    """Return the averaged difference of the outputs at a step."""
    average: Array = np.zeros_like(steps[0].target)
    for step in steps[: index + 1]:
        average = _difference(guidance, step) + guidance.form.momentum * average
    return average


def _terms(guidance: ProjectedGuidance, steps: Sequence[GuidedStep], index: int) -> tuple[Array, Array]:
    """Return the output to which the update is added at a step, and the update."""
    step, form = steps[index], guidance.form
    cond, uncond = step.outputs[guidance.branch], step.outputs[1 - guidance.branch]
    base = uncond if form.from_uncond else cond
    if index < form.start:
        return base, cond - uncond
    update: Any = apply(form, [_average(guidance, steps, index), cond])
    return base, update


def _round(number: float) -> float:
    """Round to 4 significant digits (0 if the magnitude is at most TOLERANCE). If that changes the number by more than
    TOLERANCE, relative for magnitudes above 1, return it unchanged."""
    short = float(f"{number:.4g}") if abs(number) > TOLERANCE else 0.0
    return short if abs(short - number) <= TOLERANCE * max(abs(number), 1.0) else float(number)
