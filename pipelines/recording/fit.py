"""Least squares between tensors of recordings, and the rounding of the numbers that it finds."""

from collections.abc import Sequence
from math import inf
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

TOLERANCE = 1e-5  # largest error of a relation, relative to the largest value
TINY = 1e-12  # smallest norm and range that are divided by
ROUNDING = 1e-6  # usual error of a fitted number, relative to it
Values = Tensor | NDArray[np.floating[Any]]


class Fit(NamedTuple):
    """The weights of a sum, and its largest absolute error relative to the largest absolute value of the target."""

    weights: tuple[float, ...]
    residual: float


def fit(columns: Sequence[Values], target: Values) -> Fit:
    """Return the weights with which the sum of `columns` is nearest to the target in least squares. A weight is 0 if
    its term is within the tolerance. The error is infinite if a value is not finite."""
    values, rows = _flat(target), np.stack(list(map(_flat, columns)))
    if not (np.isfinite(values).all() and np.isfinite(rows).all()):
        return Fit((0.0,) * len(rows), inf)
    norms = np.maximum(np.linalg.norm(rows, axis=1), TINY)  # so that the products are regular for times of 1000 and 1
    products, to_values = rows @ rows.T / np.outer(norms, norms), rows @ values / norms
    weights = np.linalg.lstsq(products, to_values, rcond=None)[0] / norms
    largest = max(float(np.abs(values).max()), TINY)
    weights[np.abs(weights) * np.abs(rows).max(axis=1) <= TOLERANCE * largest] = 0.0
    return Fit(tuple(weights.tolist()), float(np.abs(weights @ rows - values).max()) / largest)


def _flat(values: Values) -> NDArray[np.float64]:
    return np.asarray(values, np.float64).ravel()


def round_number(number: float, error: float = ROUNDING) -> float:
    """Return a fitted number without its rounding error: 0 if it is at most `error`, or the nearest number of 4
    significant digits, if it differs from that by at most `error`, relative to max(|number|, 1e-3). Otherwise return it
    unchanged. So 0.001 that was rounded to float32 becomes 0.001."""
    if abs(number) <= error:
        return 0.0
    short = float(f"{number:.4g}")
    return short if abs(short - number) <= error * max(abs(number), 1e-3) else float(number)


def round_weights(weights: Sequence[float]) -> tuple[float, ...]:
    """Return fitted weights without their rounding errors, so that they sum to 1: the largest is what the others leave
    of 1."""
    rounded = [round_number(weight) for weight in weights]
    largest = max(range(len(rounded)), key=lambda branch: abs(rounded[branch]))
    if abs(sum(rounded) - 1) > 1e-12:
        rounded[largest] += 1 - sum(rounded)
    return tuple(rounded)
