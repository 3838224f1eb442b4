"""Convert a caller's numbers to float32 arrays, and refuse other values and non-finite numbers by their names."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

Float32 = NDArray[np.float32]


def unmasked(value: Any) -> Any:
    """The value itself; a masked array with NaN at its masked places, which numpy would read as if they were not."""
    if not isinstance(value, np.ma.MaskedArray) or not np.ma.is_masked(value):
        return value
    return np.ma.filled(value.astype(value.dtype if value.dtype.kind == "f" else np.float64), np.nan)


def as_float32(value: Any, said: str, fix: str) -> Float32:
    """The value as an array; UserError(said, fix) for a value that is no array of numbers."""
    try:
        with np.errstate(over="ignore"):  # what float32 does not hold is not finite then, and refused for that
            return np.asarray(unmasked(value), np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(said, fix) from error


def in_model_range(value: Any, what: str) -> Any:
    """The value itself; UserError for bytes, as files of pictures hold them, however dark the picture is."""
    try:
        array = np.asarray(value)
    except (ValueError, TypeError):  # no array: refused by who makes floats of it
        return value
    if array.dtype == np.uint8 and array.size:
        raise UserError(
            f"{what}: bytes up to {array.max()}, as in a picture file, are not in model range",
            "give picture.astype(numpy.float32) / 127.5 - 1 where model range is [-1, 1]",
        )
    return value


def finite(array: Float32, said: str, fix: str) -> Float32:
    """The array itself; UserError(said, fix) if it holds NaN or infinity."""
    if not np.isfinite(array).all():
        raise UserError(said, fix)
    return array
