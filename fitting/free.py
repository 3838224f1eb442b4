"""The free numbers of a recurrence as a vector, each with the size of a small change of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.recurrence import Recurrence
from fewstep.plans.guidance import COND, UNCOND

Array = NDArray[np.float64]
Kind = Literal["rows", "told", "lean"]

NUDGE = 1e-2  # of the next x: how far a difference moves it
TOLD_SHARE = 0.004  # of the range of times: how far a difference moves a told time
GAP_SHARE = 0.1  # of the smaller of the gaps to the told times beside it, and no further
LEAN_NUDGE = 0.02  # of a guidance weight


@dataclass(frozen=True)
class Number:
    """One free number: `kind` and place in the recurrence. `size` is the change of a finite difference."""

    kind: Kind
    step: int
    column: int
    size: float


def free_numbers(numbers: Recurrence, norms: Array, kinds: Sequence[Kind]) -> tuple[Number, ...]:
    """The numbers of some kinds that a fit may change, step by step.

    norms: [N + 1, 1 + history + given] of x and of the sample at the end in column 0, then of each step's columns: the
        predictions from the newest on, the given tensors; root mean squares over rollouts.
    """
    found: list[Number] = []
    span = float(np.ptp(numbers.told)) or 1.0
    for i in range(numbers.steps):
        if "told" in kinds:
            gaps = np.abs(np.diff(numbers.told))[max(i - 1, 0) : i + 1]
            found.append(Number("told", i, 0, min(TOLD_SHARE * span, GAP_SHARE * float(gaps.min(initial=span)))))
        step = numbers.nominal.steps[i]
        if "lean" in kinds and sorted(step.branches) == sorted((COND, UNCOND)):
            found.append(Number("lean", i, 0, LEAN_NUDGE))
        if "rows" in kinds:
            for column in range(numbers.rows.shape[1]):
                is_there = column <= i + 1 or column > numbers.history  # predictions so far
                if is_there and norms[i, column] > 0:
                    found.append(Number("rows", i, column, NUDGE * float(norms[i + 1, 0] / norms[i, column])))
    return tuple(found)


def moved(numbers: Recurrence, free: Sequence[Number], by: Array) -> Recurrence:
    """The recurrence with `by` [numbers], in their own units, added to the free numbers."""
    told, lean, rows = numbers.told.copy(), numbers.lean.copy(), numbers.rows.copy()
    for number, change in zip(free, by, strict=True):
        if number.kind == "rows":
            rows[number.step, number.column] += change
        elif number.kind == "told":
            told[number.step] += change
        else:
            lean[number.step] += change
    return replace(numbers, told=told, lean=lean, rows=rows)


def difference(numbers: Recurrence, origin: Recurrence, free: Sequence[Number]) -> Array:
    """The vector that leads from `origin` to `numbers`."""

    def value(of: Recurrence, number: Number) -> float:
        if number.kind == "rows":
            return float(of.rows[number.step, number.column])
        return float((of.told if number.kind == "told" else of.lean)[number.step])

    return np.array([value(numbers, number) - value(origin, number) for number in free])
