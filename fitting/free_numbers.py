"""The free numbers of a recurrence as a vector. Each has the size of its change in a finite difference."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.recurrence import Recurrence
from fewstep.plans.guidance import COND, UNCOND

Array = NDArray[np.float64]
Freedom = Literal["rows", "times", "lean"]

NUDGE = 1e-2  # change of the next x by a finite difference, relative to its root mean square
TIME_SHARE = 0.004  # change of a time by a finite difference, as a share of the range of times
GAP_SHARE = 0.1  # upper limit of that change, as a share of the smaller gap to a neighbouring time
LEAN_NUDGE = 0.02  # change of a guidance weight


@dataclass(frozen=True)
class Number:
    """One coefficient or time that a fit changes: its `kind`, its place in the recurrence, and the `size` of the step
    by which finite differences change it."""

    kind: Freedom
    step: int
    column: int
    size: float


def free_numbers(numbers: Recurrence, norms: Array, kinds: Sequence[Freedom]) -> tuple[Number, ...]:
    """Return the coefficients and times of the given kinds that a fit may change, step by step.

    norms: [N + 1, 1 + history + given], root mean squares over rollouts. Row i is step i, and row N the finished
        sample. Column 0 is of x; the others are of each step's predictions, newest first, and of the given tensors.
    """
    free: list[Number] = []
    span = float(np.ptp(numbers.times)) or 1.0
    for i in range(numbers.steps):
        if "times" in kinds:
            gaps = np.abs(np.diff(numbers.times))[max(i - 1, 0) : i + 1]
            free.append(Number("times", i, 0, min(TIME_SHARE * span, GAP_SHARE * float(gaps.min(initial=span)))))
        step = numbers.nominal.steps[i]
        if "lean" in kinds and sorted(step.branches) == sorted((COND, UNCOND)):
            free.append(Number("lean", i, 0, LEAN_NUDGE))
        if "rows" in kinds:
            for column in range(numbers.rows.shape[1]):
                exists = column <= i + 1 or column > numbers.history  # predictions so far
                if exists and norms[i, column] > 0:
                    free.append(Number("rows", i, column, NUDGE * float(norms[i + 1, 0] / norms[i, column])))
    return tuple(free)


def add_to_numbers(numbers: Recurrence, free: Sequence[Number], by: Array) -> Recurrence:
    """Return a recurrence in which `by` is added to the free coefficients and times, in the order of `free`."""
    times, lean, rows = numbers.times.copy(), numbers.lean.copy(), numbers.rows.copy()
    for number, change in zip(free, by, strict=True):
        if number.kind == "rows":
            rows[number.step, number.column] += change
        elif number.kind == "times":
            times[number.step] += change
        else:
            lean[number.step] += change
    return replace(numbers, times=times, lean=lean, rows=rows)


def subtract_numbers(numbers: Recurrence, origin: Recurrence, free: Sequence[Number]) -> Array:
    """Return `numbers` minus `origin` for the free coefficients and times, as a vector in the order of `free`."""

    def value(of: Recurrence, number: Number) -> float:
        if number.kind == "rows":
            return float(of.rows[number.step, number.column])
        return float((of.times if number.kind == "times" else of.lean)[number.step])

    return np.array([value(numbers, number) - value(origin, number) for number in free])
