"""The manifest entry that describes a condition, and whether its fields agree with each other."""

import math
from typing import Any

import numpy as np

from fewstep.plans.spec import Strict
from fewstep.runtime.kinds.graph_entry import DType

VALUE_LIMIT = 2**24  # largest number of elements of one value


class Condition(Strict, frozen=True):
    """A named condition of the denoiser: one value of `shape` per sample.

    null, null_file: the value in the unconditional branch of guidance, as one number for each element or as an array.
    shared: whether all branches use the sample's value, as for a size or an image besides x. A denoiser has no
        unconditional form if one of its conditions has none of `null`, `null_file` and `shared`.
    default: the value of a sample for which none is given, flattened; a single number is broadcast.
    low, high: the limits of accepted values, both included.
    typical: the range of random values, which verification draws, and calibration if no data is given. None means the
        range from `low` to `high`.
    labels: names of the integers from 0.
    """

    name: str
    input: str  # the graph input it feeds
    shape: tuple[int, ...] = ()
    dtype: DType = "int64"
    null: float | None = None
    low: float | None = None
    high: float | None = None
    labels: tuple[str, ...] = ()
    typical: tuple[float | tuple[float, ...], float | tuple[float, ...]] | None = None
    null_file: str | None = None  # .npy of `shape`, for values such as the encoded empty prompt
    shared: bool = False
    default: tuple[float, ...] | None = None
    follows: dict[int, str] = {}  # axes of `shape` that follow x's free sizes: {1: "height", 2: "width*8"}


def condition_problem(condition: Condition) -> tuple[str, str] | None:
    """Return (field, what is wrong with it) if the fields of a condition contradict each other, else None."""
    for field in ("null", "low", "high"):
        number = getattr(condition, field)
        if number is not None and _is_rounded(number):
            return field, f"{number} cannot be stored exactly: from 2**53 on, only some whole numbers can"
        if number is not None and not _fits(number, condition.dtype):
            return field, f"{number:g} is not a valid {condition.dtype}"
    if condition.low is not None and condition.high is not None and condition.low > condition.high:
        return "low", f"{condition.low:g} is above high, {condition.high:g}"
    if condition.typical is not None and not _is_range(condition.typical, condition.shape):
        return "typical", f"{list(condition.typical)} is not a range of values {list(condition.shape)}"
    if any(size < 1 for size in condition.shape) or math.prod(condition.shape) > VALUE_LIMIT:
        return "shape", f"{list(condition.shape)} is not a shape"
    if condition.default is not None:
        if len(condition.default) not in (1, math.prod(condition.shape)):
            return "default", f"it has {len(condition.default)} numbers for the shape {list(condition.shape)}"
        if any(_is_rounded(number) or not _fits(number, condition.dtype) for number in condition.default):
            return "default", f"{list(condition.default)[:8]} has a number that is not a valid {condition.dtype}"
    return None


def _is_range(typical: tuple[Any, Any], shape: tuple[int, ...]) -> bool:
    """Return True if low <= high, both finite, each one number or one for each element of the last axis."""
    low, high = (np.asarray(end, np.float64) for end in typical)
    fits = all(end.shape in ((), shape[-1:]) for end in (low, high))
    return fits and bool(np.isfinite([low.sum(), high.sum()]).all() and (low <= high).all())


def has_typical_within_limits(condition: Condition) -> bool:
    """Return whether the typical range, if there is one, lies between the limits."""
    low = -math.inf if condition.low is None else condition.low
    high = math.inf if condition.high is None else condition.high
    ends = np.concatenate([np.atleast_1d(end) for end in condition.typical or ()] or [np.empty(0)])
    return bool(((low <= ends) & (ends <= high)).all())


def find_unnamed(condition: Condition) -> int | None:
    """Return an accepted integer that no label names, although the condition has labels. None if there is none."""
    if not condition.labels or condition.low is None or condition.high is None:
        return None
    ends = (int(condition.low), int(condition.high))
    return next((number for number in ends if not 0 <= number < len(condition.labels)), None)


def _is_rounded(number: float) -> bool:
    """Return True for an integer that float64, the type of a manifest's numbers, cannot represent."""
    return isinstance(number, int) and float(number) != number


def _fits(number: float, dtype: str) -> bool:
    """Return True if a dtype can represent a number; an integer dtype must represent it exactly."""
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        return number == np.floor(number) and bounds.min <= number <= bounds.max
    return math.isfinite(number)
