"""Checks the conditions that a caller gives, one value per sample, and converts them to arrays."""

import io
import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.arrays import BOOLEANS, UnusableValue, as_numbers
from fewstep.runtime.bundle.manifest import Condition, Size
from fewstep.runtime.kinds.sizes import advise_sizes, fit_lengths, has_shape

ConditionValues = Mapping[str, Sequence[Any] | NDArray[Any]]
Overrides = Mapping[str, Mapping[str, Any]]  # branch -> condition -> values, None for the null value
MOST_LISTED, FIRST_LISTED = 20, 5  # labels in a message
BOOLEAN_LABELS = ("false", "true")  # of 0 and 1
NOT_LISTS = (str, bytes, bytearray, Mapping, Set)  # their items are characters, bytes or keys, or have no order
DEFAULTS_KEPT = 64  # conditions and numbers of samples
_DEFAULTS: dict[tuple[int, int], tuple[Condition, NDArray[Any]]] = {}  # by identity of the condition, and samples
DISTILLED = "guidance"  # the condition of a denoiser that takes the guidance weight as input: one branch suffices


def check_condition_mapping(values: ConditionValues | None) -> ConditionValues:
    """Return the values, or an empty mapping for None. Raises UserError for anything else."""
    if values is not None and not isinstance(values, Mapping):
        what = f"condition {values!r} is not a mapping of names to values"
        raise UserError(what, "give condition={NAME: [VALUE, ...]}")
    return values or {}


def check(
    conditions: Sequence[Condition], values: ConditionValues | None, samples: int, axes: Sequence[Size] = ()
) -> dict[str, NDArray[Any]]:
    """Return the conditions as arrays [samples, *shape] by name. They share no memory with the values.

    Values may be labels instead of numbers. Raises UserError for values of a wrong type or shape, and UnusableValue for
    values that are missing, not finite in their type, or out of range. Messages advise sizes of the free `axes` of x.
    """
    values = check_condition_mapping(values)
    named = {condition.name: condition for condition in fit_lengths(conditions, values, axes)}
    for name in values:
        if name not in named:
            takes = "it takes " + ", ".join(map(repr, named)) if named else "leave it out: this denoiser takes none"
            raise UserError(f"unknown condition {name!r}", takes)
    arrays: dict[str, NDArray[Any]] = {}
    for name, condition in named.items():
        if name in values:
            arrays[name] = _to_array(condition, values[name], samples, axes)
        elif condition.default is not None:
            arrays[name] = _default_values(condition, samples)
        else:
            raise UserError(
                f"condition {name!r} is missing", f"give {_describe_valid_value(condition)} for each sample"
            )
    return arrays


def has_null(condition: Condition) -> bool:
    """Return True if the condition has a value in the unconditional branch."""
    return condition.shared or condition.null is not None or condition.null_file is not None


def has_unconditional_form(conditions: Sequence[Condition]) -> bool:
    """Return True if a denoiser with these conditions can be guided: each has a value in the unconditional branch, and
    not all conditions are shared."""
    return all(map(has_null, conditions)) and not all(condition.shared for condition in conditions)


def is_led_by_guidance(conditions: Sequence[Condition]) -> bool:
    """Return True if a denoiser with these conditions is usually sampled with classifier-free guidance.

    It must allow guidance, and not take the weight as an input, as distilled denoisers do.
    """
    return has_unconditional_form(conditions) and not any(condition.name == DISTILLED for condition in conditions)


def null(condition: Condition, values: NDArray[Any], arrays: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return a condition [samples, *shape] in the unconditional branch, for samples with the conditions `values`.

    `arrays` are the null values that are stored in files of the bundle, by name; one of a text may have a length of its
    own. Raises UserError if there is no null value.
    """
    if condition.null is not None:
        return np.full(values.shape, condition.null, condition.dtype)
    if condition.name in arrays:
        return np.broadcast_to(arrays[condition.name], (len(values), *arrays[condition.name].shape))
    if condition.shared:
        return values
    raise UserError(
        f"guidance needs an unconditional branch, and condition {condition.name!r} has no null value",
        "leave guidance out",
    )


def read_null(condition: Condition, content: bytes) -> NDArray[Any]:
    """Read the null value from the bytes of a .npy file. Raises ValueError if it does not fit the condition."""
    try:
        array: NDArray[Any] = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # numpy raises many unrelated classes for damaged files
        raise ValueError("it is not a .npy file of numbers") from error
    if not has_shape(condition, array.shape) or array.dtype != np.dtype(condition.dtype):
        raise ValueError(f"it is not {condition.dtype} {list(condition.shape)}")
    return array


def default_value(condition: Condition) -> NDArray[Any]:
    """Return the default value [*shape] of a condition that has one. If the default is a single number, it is
    broadcast."""
    assert condition.default is not None
    values = np.array(condition.default, condition.dtype)
    return np.broadcast_to(values.reshape(() if values.size == 1 else condition.shape), condition.shape)


def is_null_by_default(condition: Condition) -> bool:
    """Return True if the default is the null value, so that samples without a value are not guided by the condition."""
    has_both = condition.default is not None and condition.null is not None
    return has_both and bool((default_value(condition) == condition.null).all())


def random_range(condition: Condition) -> tuple[Any, Any] | None:
    """Return (low, high) of random values that replace data: numbers, or arrays that broadcast over values.

    None if the condition has no range.
    """
    if condition.typical is not None:
        low, high = (np.asarray(end) if isinstance(end, tuple) else end for end in condition.typical)
        return low, high
    if condition.dtype == "bool":
        return 0.0, 1.0
    return None if condition.low is None or condition.high is None else (condition.low, condition.high)


def _describe_valid_value(condition: Condition) -> str:
    """Describe the valid values of the condition as text, with the null value if it is outside their range."""
    none = ""
    if condition.null is not None and _first_beyond(np.array([condition.null]), condition.low, condition.high):
        none = f", or {condition.null:g} for none"
    if condition.labels:
        named = [f"{number} {label}" for number, label in enumerate(condition.labels)]
        if len(named) > MOST_LISTED:
            named = [*named[:FIRST_LISTED], "...", named[-1]]
        return ", ".join(named) + none
    kind = f"{condition.dtype} values of shape {list(condition.shape)}" if condition.shape else f"one {condition.dtype}"
    if condition.dtype == "bool":
        return f"{kind}, 0 or 1"
    bounds = "" if condition.low is None or condition.high is None else f" from {condition.low:g} to {condition.high:g}"
    return kind + bounds + none


def _default_values(condition: Condition, samples: int) -> NDArray[Any]:
    """Return the default value of each sample, read-only [samples, *shape]. The arrays of recent calls are cached."""
    kept = _DEFAULTS.get((id(condition), samples))
    if kept is None or kept[0] is not condition:
        array = np.repeat(default_value(condition)[None], samples, axis=0)
        array.setflags(write=False)
        if len(_DEFAULTS) >= DEFAULTS_KEPT:
            _DEFAULTS.clear()
        kept = _DEFAULTS[id(condition), samples] = condition, array
    return kept[1]


def _copy_if_plain(condition: Condition, values: Any, samples: int) -> NDArray[Any] | None:
    """Return a copy of an array that has the condition's type and shape, with finite values in its range. Return None
    for any other value: the other checks convert it, or explain what is wrong with it.

    These are the values of control loops, which call often.
    """
    if type(values) is not np.ndarray or values.dtype != condition.dtype:
        return None
    if values.shape != (samples, *condition.shape) or not values.size:
        return None
    if values.dtype.kind == "f" and not np.logical_and.reduce(np.isfinite(values), axis=None):
        return None
    if condition.low is not None and not condition.low <= np.minimum.reduce(values, axis=None):
        return None
    if condition.high is not None and not np.maximum.reduce(values, axis=None) <= condition.high:
        return None
    return values.copy()


def _to_array(condition: Condition, values: Any, samples: int, axes: Sequence[Size]) -> NDArray[Any]:
    if (plain := _copy_if_plain(condition, values, samples)) is not None:
        return plain
    what, fix = f"condition {condition.name!r}", f"give {_describe_valid_value(condition)}"
    dtype = np.dtype(condition.dtype)
    if isinstance(values, memoryview) or (hasattr(values, "__array__") and not hasattr(values, "__iter__")):
        values = _read_array(values, what, fix)
    is_list = hasattr(values, "__len__") and (hasattr(values, "__iter__") or hasattr(values, "__getitem__"))
    if isinstance(values, NOT_LISTS) or not is_list or getattr(values, "ndim", 1) == 0:
        raise UserError(f"{what} is {values!r}, not one value per sample", f"{fix} for each sample")
    if len(values) != samples:
        has = f"{_count(len(values), 'value')} for {_count(samples, 'sample')}"
        raise UserError(f"{what} has {has}", "give one value for each sample")
    taken = [_element(condition, value) for value in values]
    array = as_numbers(taken, what, fix)
    if array.shape != (samples, *condition.shape):
        fix += advise_sizes(condition, array.shape[1:], axes)
        raise UserError(f"{what}: one value has the shape {list(array.shape[1:])}", fix)
    most = condition.high if condition.typical is None else np.max(condition.typical[1])
    if array.dtype == np.uint8 and dtype.kind == "f" and condition.shape and array.max() > max(most or 1, 1):
        said = f"{what}: uint8 values up to {array.max()}, as in an image file, are not in the range of training data"
        raise UserError(said, "give float32 values in that range, as image.astype(numpy.float32) / 127.5 - 1")
    _check_kind(array, dtype, what, fix)
    # the null value is allowed, for an unconditional sample
    if (number := _first_beyond(array, condition.low, condition.high, condition.null)) is not None:
        raise UnusableValue(f"{what}: {number} is out of range", fix)
    return array.astype(dtype)


def _check_kind(array: NDArray[Any], dtype: np.dtype[Any], what: str, fix: str) -> None:
    """Raise UserError for numbers of another kind than a condition's dtype, and for numbers beyond its limits. Numbers
    are values of bool if they are 0 and 1, as files and command lines write it."""
    kind = {"f": "finite", "b": "truth value of type"}.get(dtype.kind, "whole number of type")
    numbers = array[:0]
    if dtype.kind == "b":
        numbers = array[(array != 0) & (array != 1)]
    elif array.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu"):
        numbers = array.ravel()
    if numbers.size:
        listed = numbers.tolist()
        wrong = next((number for number in listed if isinstance(number, float) and not number.is_integer()), listed[0])
        raise UserError(f"{what}: {wrong!r} is not a {kind} {dtype}", fix)
    if dtype.kind != "b":
        ends: Any = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
        if (number := _first_beyond(array, ends.min, ends.max)) is not None:
            raise UnusableValue(f"{what}: {number.item()!r} is not a {kind} {dtype}", fix)


def _read_array(values: Any, what: str, fix: str) -> NDArray[Any]:
    """Return the array of an object with `__array__`. It may contain labels, so its type is checked later."""
    try:
        return np.asarray(values)
    except Exception as error:  # the object's own code
        raise UserError(f"{what} is not an array ({error})", fix) from error


def _first_beyond(array: NDArray[Any], low: float | None, high: float | None, allowed: float | None = None) -> Any:
    """Return the first element outside `low` .. `high` that is not `allowed`, or None if there is none. A limit of None
    means no limit."""
    least, most = -math.inf if low is None else low, math.inf if high is None else high
    if least <= array.min() and array.max() <= most:  # fast for images; False if there is a NaN
        return None
    beyond = array[~((array >= least) & (array <= most)) & (array != (math.nan if allowed is None else allowed))]
    return beyond[0] if beyond.size else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _element(condition: Condition, value: Any) -> Any:
    """Return the number of a label, and of a boolean if the condition is of type bool. Return other values as they
    are."""
    if isinstance(value, str):
        return _number(condition, value)
    return int(value) if condition.dtype == "bool" and isinstance(value, BOOLEANS) else value


def _number(condition: Condition, text: str) -> int:
    """Return the number of a label. Raises UserError for an unknown one."""
    labels = [label.casefold() for label in condition.labels]
    if not labels and condition.dtype == "bool":
        labels = [*BOOLEAN_LABELS]
    if text.casefold() not in labels:
        raise UserError(
            f"condition {condition.name!r}: unknown value {str(text)!r}", f"give {_describe_valid_value(condition)}"
        )
    return labels.index(text.casefold())
