"""The conditions that a caller gives, one value per sample: their check, and their arrays."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import UnusableValue, as_numbers
from fewstep.runtime.bundle.manifest import Condition

ConditionValues = Mapping[str, Sequence[Any] | NDArray[Any]]
ELEMENTS_LIMIT = 2**24  # of one value
KINDS = {"f": "iuf", "b": "b"}  # of a condition's type: the kinds of values it takes; others take whole numbers
DISTILLED = "guidance"  # condition of a denoiser that takes its weight as input: it needs no second branch


def condition_problem(condition: Condition) -> tuple[str, str] | None:
    """(field, what is wrong with it) of a condition that contradicts itself, or None."""
    for field in ("null", "low", "high"):
        number = getattr(condition, field)
        if number is not None and not _fits(number, condition.dtype):
            return field, f"{number:g} is no {condition.dtype}"
    if condition.low is not None and condition.high is not None and condition.low > condition.high:
        return "low", f"{condition.low:g} is above high, {condition.high:g}"
    if condition.typical is not None and not _is_range(condition.typical, condition.shape):
        return "typical", f"{list(condition.typical)} is no range of values {list(condition.shape)}"
    if any(size < 1 for size in condition.shape) or math.prod(condition.shape) > ELEMENTS_LIMIT:
        return "shape", f"{list(condition.shape)} is not a shape"
    if condition.default is not None:
        if len(condition.default) not in (1, math.prod(condition.shape)):
            return "default", f"it has {len(condition.default)} numbers for the shape {list(condition.shape)}"
        if not all(_fits(number, condition.dtype) for number in condition.default):
            return "default", f"{list(condition.default)[:8]} does not hold {condition.dtype} alone"
    return None


def _is_range(typical: tuple[Any, Any], shape: tuple[int, ...]) -> bool:
    """True if the ends are finite, increase, and are numbers or one for each element of the last axis."""
    low, high = (np.asarray(end, np.float64) for end in typical)
    fits = all(end.shape in ((), shape[-1:]) for end in (low, high))
    return fits and bool(np.isfinite([low.sum(), high.sum()]).all() and (low <= high).all())


def _fits(number: float, dtype: str) -> bool:
    """True if a dtype holds the number, exactly if it is an integer type."""
    if np.issubdtype(dtype, np.integer):
        bounds = np.iinfo(dtype)
        return number == np.floor(number) and bounds.min <= number <= bounds.max
    return math.isfinite(number)


def check_condition_mapping(values: ConditionValues | None) -> ConditionValues:
    """The values, which are none for None. UserError if they are no mapping."""
    if values is not None and not isinstance(values, Mapping):
        raise UserError(f"condition {values!r} is no mapping of names to values", "give condition={NAME: [VALUE, ...]}")
    return values or {}


def check(conditions: Sequence[Condition], values: ConditionValues | None, samples: int) -> dict[str, NDArray[Any]]:
    """Arrays [samples, *shape] under the names of the conditions, which share no memory with the values. Labels may
    stand for their numbers.

    UserError for values of another form. Unusable for values that are missing, not finite in their type, or out of
    range.
    """
    values = check_condition_mapping(values)
    named = {condition.name: condition for condition in conditions}
    for name in values:
        if name not in named:
            takes = "it takes " + ", ".join(map(repr, named)) if named else "leave it out: this denoiser takes none"
            raise UserError(f"unknown condition {name!r}", takes)
    arrays: dict[str, NDArray[Any]] = {}
    for name, condition in named.items():
        if name in values:
            arrays[name] = _to_array(condition, values[name], samples)
        elif condition.default is not None:
            arrays[name] = np.broadcast_to(default_value(condition), (samples, *condition.shape))
        else:
            raise UserError(
                f"condition {name!r} is missing", f"give {_describe_valid_value(condition)} for each sample"
            )
    return arrays


def has_null(condition: Condition) -> bool:
    """True if the condition has a value in the unconditional branch."""
    return condition.shared or condition.null is not None or condition.null_file is not None


def has_unconditional_form(conditions: Sequence[Condition]) -> bool:
    """True if a denoiser that takes these can be guided: each has a null value, and not all stay as they are."""
    return all(map(has_null, conditions)) and not all(condition.shared for condition in conditions)


def is_led_by_guidance(conditions: Sequence[Condition]) -> bool:
    """True if a denoiser that takes these is sampled with classifier-free guidance. It can be guided, and does not take
    the weight as input, as distilled ones do."""
    return has_unconditional_form(conditions) and not any(each.name == DISTILLED for each in conditions)


def null(condition: Condition, values: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """The condition [samples, *shape] of the unconditional branch, for samples with `values` of their own.

    `arrays` hold the null values that lie in files of the bundle, by name.
    """
    if condition.null is not None:
        return np.full(values.shape, condition.null, condition.dtype)
    if condition.name in arrays:
        return np.broadcast_to(arrays[condition.name], values.shape)
    if condition.shared:
        return values
    raise UserError(
        f"guidance needs an unconditional branch, and condition {condition.name!r} has no null value",
        "leave guidance out",
    )


def read_null(condition: Condition, content: bytes) -> NDArray[Any]:
    """The null value in the bytes of a .npy file. ValueError if it is none of this condition's."""
    try:
        array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy answers damage with errors of many unrelated classes
        raise ValueError("it is no .npy file of numbers") from error
    if (array.shape, array.dtype) != (condition.shape, np.dtype(condition.dtype)):
        raise ValueError(f"it is no {condition.dtype} {list(condition.shape)}")
    return array


def default_value(condition: Condition) -> NDArray[Any]:
    """The default [*shape] of a condition that has one; one number stands for each element."""
    assert condition.default is not None
    values = np.array(condition.default, condition.dtype)
    return np.broadcast_to(values.reshape(() if values.size == 1 else condition.shape), condition.shape)


def random_range(condition: Condition) -> tuple[Any, Any] | None:
    """(low, high) of random values that stand in for data, numbers or arrays that broadcast over values. None where the
    condition has no range."""
    if condition.typical is not None:
        low, high = (np.asarray(end) if isinstance(end, tuple) else end for end in condition.typical)
        return low, high
    if condition.dtype == "bool":
        return 0.0, 1.0
    return None if condition.low is None or condition.high is None else (condition.low, condition.high)


def _describe_valid_value(condition: Condition) -> str:
    """A valid value of the condition, in words."""
    if condition.labels:
        return ", ".join(f"{number} {label}" for number, label in enumerate(condition.labels))
    kind = f"{condition.dtype} values of shape {list(condition.shape)}" if condition.shape else f"one {condition.dtype}"
    bounds = "" if condition.low is None or condition.high is None else f" from {condition.low:g} to {condition.high:g}"
    return kind + bounds


def _to_array(condition: Condition, values: Sequence[Any] | NDArray[Any], samples: int) -> NDArray[Any]:
    what, fix, dtype = (
        f"condition {condition.name!r}",
        f"give {_describe_valid_value(condition)}",
        np.dtype(condition.dtype),
    )
    if isinstance(values, str) or not hasattr(values, "__len__") or getattr(values, "ndim", 1) == 0:
        raise UserError(f"{what} is {values!r}, not one value per sample", f"{fix} for each sample")
    if len(values) != samples:
        has = f"{_count(len(values), 'value')} for {_count(samples, 'sample')}"
        raise UserError(f"{what} has {has}", "give one for each")
    taken = [_number(condition, value) if isinstance(value, str) else value for value in values]
    array = as_numbers(taken, what, fix)
    if array.shape != (samples, *condition.shape):
        raise UserError(f"{what}: one value has the shape {list(array.shape[1:])}", fix)
    kind = {"f": "finite", "b": "truth value of type"}.get(dtype.kind, "whole number of type")
    if array.dtype.kind not in KINDS.get(dtype.kind, "iu"):
        raise UserError(f"{what}: {array.ravel().tolist()[0]!r} is no {kind} {dtype}", fix)
    if dtype.kind != "b":
        ends: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        if (number := _first_beyond(array, ends.min, ends.max)) is not None:
            raise UnusableValue(f"{what}: {number.item()!r} is no {kind} {dtype}", fix)
    # asking for an unconditional sample is fine
    if (number := _first_beyond(array, condition.low, condition.high, condition.null)) is not None:
        raise UnusableValue(f"{what}: {number} is out of range", fix)
    return array.astype(dtype)


def _first_beyond(array: NDArray[Any], low: float | None, high: float | None, allowed: float | None = None) -> Any:
    """The first number that is not from `low` to `high`, nor the one that is allowed. None where there is none."""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if least <= array.min() and array.max() <= most:  # NaN is not: a picture has a million numbers, and this is quick
        return None
    beyond = array[~((array >= least) & (array <= most)) & (array != (math.nan if allowed is None else allowed))]
    return beyond[0] if beyond.size else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _number(condition: Condition, text: str) -> int:
    """The number of a label."""
    labels = [label.casefold() for label in condition.labels]
    if text.casefold() not in labels:
        raise UserError(
            f"condition {condition.name!r}: unknown value {str(text)!r}", f"give {_describe_valid_value(condition)}"
        )
    return labels.index(text.casefold())
