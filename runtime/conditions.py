"""Conditions as users give them, one value per sample, checked and made into arrays."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Condition

Given = Mapping[str, Sequence[Any] | NDArray[Any]]
ELEMENTS_LIMIT = 2**24  # of one value


def condition_problem(condition: Condition) -> tuple[str, str] | None:
    """(field, what is wrong with it) of a condition that contradicts itself, or None."""
    for field in ("null", "low", "high"):
        number = getattr(condition, field)
        if number is not None and not _fits(number, condition.dtype):
            return field, f"{number:g} is no {condition.dtype}"
    if condition.low is not None and condition.high is not None and condition.low > condition.high:
        return "low", f"{condition.low:g} is above high, {condition.high:g}"
    if condition.typical is not None and not -math.inf < condition.typical[0] <= condition.typical[1] < math.inf:
        return "typical", f"{list(condition.typical)} is no range"
    if any(size < 1 for size in condition.shape) or math.prod(condition.shape) > ELEMENTS_LIMIT:
        return "shape", f"{list(condition.shape)} is not a shape"
    return None


def _fits(number: float, dtype: str) -> bool:
    """Whether a dtype holds the number, exactly if it is an integer type."""
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        return number == np.floor(number) and bounds.min <= number <= bounds.max
    return math.isfinite(number)


def check(conditions: Sequence[Condition], given: Given | None, samples: int) -> dict[str, NDArray[Any]]:
    """Arrays [samples, *shape] under the names of the conditions. Labels may stand for their numbers."""
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise UserError(f"condition {given!r} is no mapping of names to values", "give condition={NAME: [VALUE, ...]}")
    known = {condition.name: condition for condition in conditions}
    for name in given:
        if name not in known:
            takes = "it takes " + ", ".join(map(repr, known)) if known else "leave it out: this denoiser takes none"
            raise UserError(f"unknown condition {name!r}", takes)
    for name, condition in known.items():
        if name not in given:
            raise UserError(f"condition {name!r} is missing", f"give {_wanted(condition)} for each sample")
    return {name: _array(condition, given[name], samples) for name, condition in known.items()}


def null(condition: Condition, samples: int) -> NDArray[Any]:
    """The condition of the unconditional branch, [samples, *shape]."""
    if condition.null is None:
        raise UserError(
            f"guidance needs an unconditional branch, and condition {condition.name!r} has no null value",
            "leave guidance out",
        )
    return np.full((samples, *condition.shape), condition.null, condition.dtype)


def drawn_range(condition: Condition) -> tuple[float, float] | None:
    """(low, high) of random values that stand in for data; None where nothing says what such data is like."""
    if condition.typical is not None:
        return condition.typical
    if condition.dtype == "bool":
        return 0.0, 1.0
    return None if condition.low is None or condition.high is None else (condition.low, condition.high)


def _wanted(condition: Condition) -> str:
    """What a value of the condition is, in words."""
    if condition.labels:
        return ", ".join(f"{number} {label}" for number, label in enumerate(condition.labels))
    kind = f"{condition.dtype} values of shape {list(condition.shape)}" if condition.shape else f"one {condition.dtype}"
    bounds = "" if condition.low is None or condition.high is None else f" from {condition.low:g} to {condition.high:g}"
    return kind + bounds


def _array(condition: Condition, values: Sequence[Any] | NDArray[Any], samples: int) -> NDArray[Any]:
    name, fix = condition.name, f"give {_wanted(condition)}"
    if isinstance(values, str) or not hasattr(values, "__len__"):
        raise UserError(f"condition {name!r} is {values!r}, not one value per sample", f"{fix} for each sample")
    if len(values) != samples:
        raise UserError(f"condition {name!r} has {len(values)} values for {samples} samples", "give one per sample")
    numbers = [_number(condition, value) if isinstance(value, str) else value for value in values]
    try:
        array = np.asarray(numbers)
    except ValueError as error:
        raise UserError(f"condition {name!r} has values of different shapes", fix) from error
    if array.shape != (samples, *condition.shape):
        raise UserError(f"condition {name!r}: one value has the shape {list(array.shape[1:])}", fix)
    bad = ~_held(array, np.dtype(condition.dtype))
    if bad.any():
        raise UserError(f"condition {name!r}: {array[bad].tolist()[0]!r} is no finite {condition.dtype}", fix)
    outside = np.zeros(array.shape, bool)
    if condition.low is not None:
        outside |= array < condition.low
    if condition.high is not None:
        outside |= array > condition.high
    if condition.null is not None:
        outside &= array != condition.null  # asking for an unconditional sample is fine
    if outside.any():
        raise UserError(f"condition {name!r}: {array[outside][0]} is out of range", fix)
    return array.astype(condition.dtype)


def _number(condition: Condition, text: str) -> int:
    """The number of a label."""
    labels = [label.casefold() for label in condition.labels]
    if text.casefold() not in labels:
        raise UserError(f"condition {condition.name!r}: unknown value {str(text)!r}", f"give {_wanted(condition)}")
    return labels.index(text.casefold())


def _held(array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[np.bool_]:
    """Which values a dtype holds: whole numbers as they are, others up to rounding."""
    if array.dtype.kind not in {"f": "iuf", "b": "b"}.get(dtype.kind, "iu"):
        return np.zeros(array.shape, bool)
    if dtype.kind == "b":
        return np.ones(array.shape, bool)
    bounds: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    held: NDArray[np.bool_] = (array >= bounds.min) & (array <= bounds.max)
    return held
