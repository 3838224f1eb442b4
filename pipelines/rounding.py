"""How far samples of a plan may be from those of its pipeline: a tolerance, or what rounding explains."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCE = 1e-4  # largest difference of the final x, relative to its range
OF_TIMES = 1e-3  # largest difference of a time, relative to itself
ROUNDING = 2**-22  # a relative difference of x
MOST_OF_ROUNDING = 4  # times what a rounded x changes: each step rounds
OF_STEPS = 4e-6  # a relative difference that the arithmetic of steps makes by rounding alone

Array = NDArray[np.floating[Any]]


def relative_difference(mine: Array, theirs: Array) -> float:
    """Return the largest difference, relative to the range of the second array."""
    return float(np.abs(mine - theirs).max() / max(float(np.ptp(theirs)), 1e-12))


def is_rounding(x: Array, own: Array, rounded: Array) -> bool:
    """Return whether an x after a step is the pipeline's own up to rounding. `rounded` is that of a rounded input."""
    most = max(OF_STEPS, MOST_OF_ROUNDING * relative_difference(rounded, x))
    return relative_difference(x, own) <= min(TOLERANCE, most)
