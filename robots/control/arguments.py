"""Check the arguments of a runner. Each failure is a UserError."""

import math
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fewstep.plans.errors import UserError
from fewstep.robots.control.chunk import Float32
from fewstep.runtime.arrays import UnusableValue, as_finite


def is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)


def check_seconds(name: str, value: Any, fix: str = "give seconds, 0 or more", infinite: bool = False) -> float:
    """Check a number of seconds, 0 or more. Infinity is allowed only if `infinite`."""
    if not is_number(value) or not value >= 0 or (value == math.inf and not infinite):
        raise UserError(f"{name} is {value!r}", fix)
    return float(value)


def check_positive(name: str, value: Any) -> float:
    if not (is_number(value) and math.isfinite(value) and value > 0):
        raise UserError(f"{name} is {value!r}", "give a number above 0")
    return float(value)


def check_pose(pose: ArrayLike | None, shape: tuple[int, ...]) -> Float32 | None:
    """Return a copy of a measured pose as an array; None if a value is None, masked or not finite. Raises UserError for
    a wrong shape or type."""
    fix = "return the measured value of each element of an action"
    try:
        measured = as_finite(pose, "the measured pose (Safety.pose)", fix).copy()
    except UnusableValue:
        return None
    if measured.shape != shape:
        what = f"Safety.pose returns a pose of the shape {list(measured.shape)}, and actions have {list(shape)}"
        raise UserError(what, fix)
    return measured


def check_idle(action: ArrayLike, shape: tuple[int, ...]) -> Float32:
    """Return a copy of the idle action as an array."""
    fix = f"give one action {list(shape)} of finite numbers"
    idle = as_finite(action, "idle", fix).copy()
    if idle.shape != shape:
        raise UserError(f"idle is {action!r}", fix)
    return idle
