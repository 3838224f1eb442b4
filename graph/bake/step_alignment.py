"""Write the coefficients of all steps of a plan in tables with the same columns, so that one Loop can run the steps and
look up their coefficients.

The columns of an aligned step are the rows of the state, the outputs of every branch that any step evaluates, the
result of the shaping, and as many draws as any step reads. A step without a column has the coefficient zero there. The
order of the columns is the same in every step, so sums are computed in the same order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan, AnyStep
from fewstep.plans.plan import Plan, Row, Step
from fewstep.plans.shaping import Clip, Shaping

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]
NO_TENSOR = -1


@dataclass(frozen=True)
class StepRange:
    """S consecutive steps of a plan that one Loop can run.

    branches: the branches of all steps. Step s evaluates `count[s]` of them, starting at `first[s]`.
    heads: the number of heads of the network's output.
    """

    steps: tuple[Any, ...]
    branches: tuple[str, ...]
    first: tuple[int, ...]
    count: tuple[int, ...]
    heads: int


AlignSteps = Callable[[AnyPlan, Sequence[Any]], StepRange | None]  # None if no single body can run the steps


@dataclass(frozen=True)
class AlignedSteps(StepRange):
    """Consecutive steps of a `Plan` whose coefficient tables have the same K rows and C columns. The columns are the
    state rows, the outputs, the result of the shaping, and the draws, in this order.

    input and estimate [S, K], shaping_of [S, values, C], update [S, K, C]: the coefficients.
    bounds: [S, 2], the bounds of a clip.
    log_scale: [S, C], the logarithm of the factor of the first draw, or None if no step scales it.
    draws: [S, D], the numbers of the plan's draws that each step reads; 0 if the step reads none.
    terms: (row, column) of the coefficients that are tensors.
    tensor_of: [S, terms], the numbers of these tensors, or NO_TENSOR.
    """

    steps: tuple[Step, ...]
    input: Floats
    estimate: Floats | None
    shaping: Shaping | None
    shaping_of: Floats
    bounds: Floats
    log_scale: Floats | None
    update: Floats
    draws: Whole
    terms: tuple[tuple[int, int | None], ...]
    tensor_of: Whole


def align(plan: Plan, steps: Sequence[Step]) -> AlignedSteps | None:
    """Return the steps on common columns. Return None if their columns, branch order or shaping do not match."""
    branches, first, count = branch_ranges(steps)
    shaped = next((step for step in steps if step.shaping is not None), None)
    if -1 in first or not all(_has_same_form(step, steps[0], shaped) for step in steps):
        return None
    draws = max(len(step.draws) for step in steps)
    outputs = len(branches) * steps[0].heads
    width = plan.rows + outputs + (shaped is not None) + draws
    columns = [
        _columns(step, plan.rows, at, outputs, shaped is not None) for step, at in zip(steps, first, strict=True)
    ]
    terms = [
        [(term.row, None if term.column is None else places[term.column]) for term in step.terms]
        for step, places in zip(steps, columns, strict=True)
    ]
    common = max(terms, key=len)
    if any(own not in (common, []) for own in terms):
        return None
    shaping_of, bounds = [], []
    for step, own in zip(steps, columns, strict=True):
        if shaped is not None:
            source, its = (step, own) if step.shaping is not None else (shaped, columns[steps.index(shaped)])
            shaping_of.append([_spread_row(row, its, width) for row in source.shaping_of])
            bounds.append((source.shaping.low, source.shaping.high) if isinstance(source.shaping, Clip) else (0, 0))
    return AlignedSteps(
        steps=tuple(steps),
        branches=branches,
        first=first,
        count=count,
        heads=steps[0].heads,
        input=np.array([step.input for step in steps]),
        estimate=np.array([step.estimate for step in steps]) if steps[0].estimate else None,
        shaping=None if shaped is None else shaped.shaping,
        shaping_of=np.array(shaping_of),
        bounds=np.array(bounds),
        log_scale=np.array([_spread_row(step.log_scale, own, width) for step, own in zip(steps, columns, strict=True)])
        if any(step.log_scale for step in steps)
        else None,
        update=np.array(
            [[_spread_row(row, own, width) for row in step.update] for step, own in zip(steps, columns, strict=True)]
        ),
        draws=np.array([[*step.draws, *[0] * (draws - len(step.draws))] for step in steps], np.int64),
        terms=tuple(common),
        tensor_of=np.array(
            [[term.tensor for term in step.terms] or [NO_TENSOR] * len(common) for step in steps], np.int64
        ),
    )


def stretches(plan: AnyPlan, breaks: Sequence[bool], align_steps: AlignSteps) -> list[StepRange]:
    """Return the plan's steps, divided into few ranges, each made by `align_steps`. A new range starts at each step in
    `breaks`."""
    parts: list[list[Any]] = []
    for step, is_break in zip(plan.steps, breaks, strict=True):
        if is_break or not parts:
            parts.append([])
        parts[-1].append(step)
    return [stretch for part in parts for stretch in _align_halves(plan, part, align_steps)]


def _align_halves(plan: AnyPlan, steps: list[Any], align_steps: AlignSteps) -> list[StepRange]:
    """Return one aligned range, or the ranges of both halves. A single step always aligns."""
    whole = align_steps(plan, steps)
    if whole is not None:
        return [whole]
    half = len(steps) // 2
    return [*_align_halves(plan, steps[:half], align_steps), *_align_halves(plan, steps[half:], align_steps)]


def branch_ranges(steps: Sequence[AnyStep]) -> tuple[tuple[str, ...], tuple[int, ...], tuple[int, ...]]:
    """Return all branches of some steps, and for each step the index of its first branch and the number of its
    branches."""
    branches = max((step.branches for step in steps), key=len)
    first = tuple(branch_offset(step.branches, branches) for step in steps)
    return branches, first, tuple(len(step.branches) for step in steps)


def branch_offset(part: tuple[str, ...], branches: tuple[str, ...]) -> int:
    """Return the index at which a step's branches begin among all branches; -1 if they are not consecutive there."""
    places = range(len(branches) - len(part) + 1)
    return next((at for at in places if branches[at : at + len(part)] == part), -1)


def _has_same_form(step: Step, first: Step, shaped: Step | None) -> bool:
    """Return True if a step has as many heads as the first step, and has either no shaping or the shaping of the other
    steps."""
    if step.heads != first.heads:
        return False
    if step.shaping is None or shaped is None or step.shaping == shaped.shaping:
        return True
    return isinstance(step.shaping, Clip) and isinstance(shaped.shaping, Clip)


def _columns(step: Step, rows: int, first: int, outputs: int, has_shaping: bool) -> list[int]:
    """Return the indices that a step's own columns have among the common columns of all steps."""
    start = rows + first * step.heads
    shaped = [rows + outputs] if step.shaping is not None else []
    draws = rows + outputs + has_shaping
    own = range(start, start + len(step.branches) * step.heads)
    return [*chain(range(rows), own, shaped, range(draws, draws + len(step.draws)))]


def _spread_row(row: Row, columns: Sequence[int], width: int) -> Floats:
    """Return a row of `width` coefficients that has the values of `row` at `columns`, and zeros elsewhere."""
    wide = np.zeros(width)
    wide[list(columns[: len(row)])] = row
    return wide
