"""Checks of arrays that callers give. A value that is not a complete array of numbers is refused by its name."""

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fewstep.plans.errors import UserError

Float32 = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]  # arrays by name
MASKED = "masked values"
BOOLEANS = (bool, np.bool_)


class UnusableValue(UserError):
    """Raised for a value of the right type and shape that is missing, not finite or out of range, such as from a sensor
    that dropped out."""


def as_numbers(value: Any, what: str, fix: str, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """Convert a value to an array of numbers or booleans, of type `dtype` if it is given.

    Raises UnusableValue for None and for masked values, which numpy would treat as valid. Raises UserError for anything
    else that is not numeric. Values that `dtype` cannot represent become infinite, which `as_finite` refuses.
    """
    if type(value) is np.ndarray and value.dtype.kind in "iuf":  # those of control loops, which call often
        if dtype is None or value.dtype == dtype:
            return value
        if dtype == np.float64 and value.dtype.itemsize <= 8:  # cannot overflow
            return value.astype(np.float64)
    is_not, holds = ("are not", "hold") if what.endswith("s") else ("is not", "holds")
    if missing := find_missing(value):
        raise UnusableValue(f"{what} {holds} {missing}", fix)
    try:
        are_booleans = _find_booleans(value)
        if len(are_booleans) > 1:
            raise TypeError("it has truth values and numbers")
        array = np.asarray(value)
        if array.dtype == object and are_booleans == {True}:
            array = array.astype(np.bool_)
        if array.dtype == object and all(isinstance(number, Real) for number in array.flat):
            are_integers = all(
                isinstance(number, Integral) and -(2**63) <= int(number) < 2**63 for number in array.flat
            )
            array = array.astype(np.int64 if are_integers else np.float64)  # others are fractions, or beyond int64
        if array.dtype.kind not in "biufV" or array.dtype.names is not None:
            odd = next((number for number in array.ravel().tolist() if not isinstance(number, Real)), array.dtype)
            raise TypeError(f"{odd!r:.40}")
        with np.errstate(over="ignore"):
            return array.astype(array.dtype if dtype is None else dtype, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: a torch tensor with gradient
        raise UserError(f"{what} {is_not} an array of numbers ({error})", fix) from error


def find_missing(value: Any) -> str:
    """Return "None" if a value is None, MASKED if it has masked elements, and "" if nothing is missing. Lists and
    mappings are searched."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif isinstance(value, np.ndarray) and value.dtype == object:
        value = value.ravel().tolist()
    if isinstance(value, list | tuple):
        are_numbers = set(map(type, value)) <= {int, float}  # fast for lists of a million numbers
        return "" if are_numbers else next(filter(None, map(find_missing, value)), "")
    is_masked = isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value)
    return MASKED if is_masked else "None" if value is None else ""


def _find_booleans(value: Any) -> set[bool]:
    """Return whether the elements of a value are booleans: {True}, {False}, or both if only some of them are. numpy
    would convert those to 0 and 1. Lists in lists are searched."""
    if isinstance(value, np.ndarray):
        if value.dtype != object:
            return {value.dtype == np.bool_}
        value = value.ravel().tolist()
    if not isinstance(value, list | tuple):
        return {isinstance(value, BOOLEANS)}
    kinds = set(map(type, value))
    if kinds <= {int, float} or kinds <= {bool}:  # fast for lists of a million numbers
        return {kinds == {bool}}
    return set[bool]().union(*map(_find_booleans, value))


def as_finite(value: Any, what: str, fix: str) -> Float32:
    """Return the value as float32 (`as_numbers`). Raises UnusableValue for NaN and infinity."""
    array: Float32 = as_numbers(value, what, fix, np.float32)
    if not np.isfinite(array).all():
        raise UnusableValue(f"{what} hold{'' if what.endswith('s') else 's'} a number that is not finite", fix)
    return array


def broadcast_to_samples(
    array: NDArray[Any], what: str, shape: Sequence[int], fix: str, axes: int | None = None
) -> NDArray[Any]:
    """Broadcast a tensor to `shape` [B, *x_shape]. It may have that shape, or [*x_shape] for all samples.

    `axes` is the minimum number of axes, len(x_shape) by default.
    """
    if array.shape == tuple(shape):
        return array
    if (1, *array.shape) == tuple(shape):
        return array[None]
    try:
        if array.ndim < (len(shape) - 1 if axes is None else axes):
            raise ValueError
        return np.broadcast_to(array, tuple(shape))
    except ValueError:
        raise UserError(f"{what} has the shape {list(array.shape)}, not {list(shape)}", fix) from None


def as_finite_tensor(value: Any, what: str, shape: Sequence[int], axes: int | None = None) -> Float32:
    """Return the value as finite float32, broadcast to `shape` [B, *x_shape] (`broadcast_to_samples`)."""
    fix = f"give finite numbers {list(shape)}"
    return broadcast_to_samples(as_finite(value, what, fix), what, shape, fix, axes)


def as_model_range(value: Any, what: str, fix: str) -> NDArray[Any]:
    """Convert a value to an array (see `as_numbers`). Raises UserError for booleans, and for uint8, the type of image
    files, because such values are not in model range."""
    array = as_numbers(value, what, fix)
    if array.dtype == np.bool_:
        raise UserError(f"{what}: truth values are not in model range", fix)
    if array.dtype == np.uint8 and array.size:
        raise UserError(
            f"{what}: uint8 values up to {array.max()}, as in an image file, are not in model range",
            "give image.astype(numpy.float32) / 127.5 - 1 if the model range is [-1, 1]",
        )
    return array
