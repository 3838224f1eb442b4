"""The difference of two tensors, as measured in every comparison of a graph with its source."""

import math
from typing import NamedTuple

import numpy as np

from fewstep.graph.graph import Array


class TensorDifference(NamedTuple):
    """The largest absolute difference, and its ratio to the largest absolute value expected."""

    largest: float
    relative: float


def measure_difference(expected: Array, actual: Array) -> TensorDifference:
    """Return the difference of the finite values. It is infinite if shapes, integers or infinities differ."""
    none = TensorDifference(math.inf, math.inf)
    if expected.shape != actual.shape:
        return none
    if expected.dtype.kind != "f":
        return none if np.any(expected != actual) else TensorDifference(0.0, 0.0)
    expected, actual = expected.astype(np.float32), actual.astype(np.float32)
    finite = np.isfinite(expected)
    if not np.array_equal(expected[~finite], actual[~finite], equal_nan=True):
        return none
    error = float(np.max(np.abs(expected[finite] - actual[finite]), initial=0.0))
    return TensorDifference(error, error / (float(np.max(np.abs(expected[finite]), initial=0.0)) or 1.0))


def differs(expected: Array, actual: Array, tolerance: float) -> bool:
    """Return True if two tensors differ by more than the tolerance, relative to the largest value expected."""
    return not measure_difference(expected, actual).relative <= tolerance
