"""Discrete actions of a policy, such as a gripper's: each has a few levels, in the units of the robot."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]


def snapped(actions: Float32, discrete: Mapping[int, tuple[float, ...]]) -> Float32:
    """Actions [..., places] with discrete places rounded to the nearest of their levels."""
    if not discrete:
        return actions
    rounded = actions.copy()
    for place, levels in discrete.items():
        values = np.asarray(levels, np.float32)
        rounded[..., place] = values[np.abs(rounded[..., place, None] - values).argmin(axis=-1)]
    return rounded
