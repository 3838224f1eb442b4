"""Numbers that a caller gives, as float32 arrays: what is none, or not finite, is refused in the caller's words."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

Float32 = NDArray[np.float32]


def as_float32(value: Any, said: str, fix: str) -> Float32:
    """The value as an array; UserError(said, fix) for what is no array of numbers."""
    try:
        with np.errstate(over="ignore"):  # what float32 does not hold is not finite then, and refused for that
            return np.asarray(value, np.float32)
    except (ValueError, TypeError) as error:
        raise UserError(said, fix) from error


def finite(array: Float32, said: str, fix: str) -> Float32:
    """The array itself; UserError(said, fix) if it holds NaN or infinity."""
    if not np.isfinite(array).all():
        raise UserError(said, fix)
    return array
