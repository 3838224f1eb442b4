"""The one door for arrays of callers: an array of numbers that are all there, or one line that names the argument."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fewstep.plans.errors import UserError

Float32 = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]  # by name
MASKED = "masked values"


class UnusableValue(UserError):
    """A value of the right form that is missing, not finite or out of range, as of a sensor that dropped out."""


def as_numbers(value: Any, what: str, fix: str, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """The value as an array of numbers or truth values, converted to a type if one is asked for.

    Unusable(what ..., fix) for None, and for masked values, which numpy would read as if they were not. UserError for
    anything else that is not made of numbers. What a type does not hold is infinite in it: `as_finite` refuses that.
    """
    is_no, holds = ("are no", "hold") if what.endswith("s") else ("is no", "holds")
    if missing := find_missing(value):
        raise UnusableValue(f"{what} {holds} {missing}", fix)
    try:
        array = np.asarray(value)
        if array.dtype == object and all(isinstance(each, Real) for each in array.flat):
            array = array.astype(np.float64)  # whole numbers beyond int64
        if array.dtype.kind not in "biufV":
            odd = next((each for each in array.ravel().tolist() if not isinstance(each, Real)), array.dtype)
            raise TypeError(f"{odd!r:.40}")
        with np.errstate(over="ignore"):
            return array.astype(array.dtype if dtype is None else dtype, copy=False)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # the last of a torch tensor with a gradient
        raise UserError(f"{what} {is_no} array of numbers ({error})", fix) from error


def find_missing(value: Any) -> str:
    """The name of what stands where a number is missing, also within lists and mappings; empty where all are there."""
    if isinstance(value, Mapping):
        value = list(value.values())
    elif isinstance(value, np.ndarray) and value.dtype == object:
        value = value.ravel().tolist()
    if isinstance(value, list | tuple):
        are_numbers = set(map(type, value)) <= {int, float}  # a picture in lists has a million
        return "" if are_numbers else next(filter(None, map(find_missing, value)), "")
    is_masked = isinstance(value, np.ma.MaskedArray) and np.ma.is_masked(value)
    return MASKED if is_masked else "None" if value is None else ""


def as_finite(value: Any, what: str, fix: str) -> Float32:
    """`as_numbers` in float32. Unusable where one is NaN or infinity."""
    array: Float32 = as_numbers(value, what, fix, np.float32)
    if not np.isfinite(array).all():
        raise UnusableValue(f"{what} hold{'' if what.endswith('s') else 's'} a number that is not finite", fix)
    return array


def broadcast_to_samples(
    array: NDArray[Any], what: str, shape: Sequence[int], fix: str, axes: int | None = None
) -> NDArray[Any]:
    """A tensor [B, *x_shape], given so, as one [*x_shape] for all, or with at least so many axes."""
    if (1, *array.shape) == tuple(shape):
        return array[None]
    try:
        if array.ndim < (len(shape) - 1 if axes is None else axes):
            raise ValueError
        return np.broadcast_to(array, tuple(shape))
    except ValueError:
        raise UserError(f"{what} does not have the shape {list(shape)} but {list(array.shape)}", fix) from None


def as_model_range(value: Any, what: str, fix: str) -> NDArray[Any]:
    """`as_numbers`; UserError for bytes, as files of pictures hold them, however dark the picture is."""
    array = as_numbers(value, what, fix)
    if array.dtype == np.uint8 and array.size:
        raise UserError(
            f"{what}: bytes up to {array.max()}, as in a picture file, are not in model range",
            "give picture.astype(numpy.float32) / 127.5 - 1 where model range is [-1, 1]",
        )
    return array
