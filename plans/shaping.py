"""What a step may do to a prediction that is not linear: p = shape(values), one value or two of it.

Everything else of a plan is multiplications and additions; these few are what samplers in use put between the network
and the update.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.canonical import canonical
from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict

Array = NDArray[np.floating[Any]]


class Clip(Strict, frozen=True, tag="clip"):
    """Clip the predicted x0 to [low, high], elementwise (Ho et al. 2020's clipping)."""

    low: float
    high: float


class Threshold(Strict, frozen=True, tag="threshold"):
    """Dynamic thresholding of the predicted x0, per sample (Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    s is the `quantile` of |x0| over the sample, at least 1 and at most `most` (None: no limit, as in the paper; with 1
    this is Clip(-1, 1)); x0 becomes clip(x0, -s, s) / s.
    """

    quantile: float = 0.995
    most: float | None = None


class Rescale(Strict, frozen=True, tag="rescale"):
    """Bring the guided output back to the spread of the conditional one (Lin et al. 2024, arXiv 2305.08891, section
    3.4): p = phi o std(o_cond) / std(o) + (1 - phi) o, the standard deviations per sample."""

    phi: float = 0.7


Shape = Clip | Threshold | Rescale


def problem(shape: Shape) -> str | None:
    """What is wrong with the numbers of a shape, or None."""
    if isinstance(shape, Clip):
        fine, said = -math.inf < shape.low < shape.high < math.inf, f"clips to [{shape.low}, {shape.high}]"
    elif isinstance(shape, Threshold):
        fine = 0 < shape.quantile <= 1 and (shape.most is None or 1 <= shape.most < math.inf)
        said = f"thresholds at quantile {shape.quantile} up to {shape.most}"
    else:
        fine, said = 0 <= shape.phi <= 1, f"rescales with phi {shape.phi}"
    return None if fine else said


def as_shape(given: Shape | None) -> Shape | None:
    """A shape as a caller made it. Raises UserError for what is none, or whose numbers make no sense."""
    if given is None:
        return None
    if not isinstance(given, Shape):
        raise UserError(f"shape {given!r} is no shape", "give Clip(-1, 1) or another of fewstep.plans.shaping")
    fix = "give finite low < high, 0 < quantile <= 1 <= most, or phi from 0 to 1"
    shape = canonical(given, fix)
    if wrong := problem(shape):
        raise UserError(f"the shape {shape} {wrong}", fix)
    return shape


def values_wanted(shape: Shape) -> int:
    """How many values the shape reads: x0, or the guided and the conditional output."""
    return 2 if isinstance(shape, Rescale) else 1


def apply(shape: Shape, values: Sequence[Array]) -> Array:
    """p [B, ...] from the values [B, ...] that the shape reads."""
    value = values[0]
    if isinstance(shape, Clip):
        return np.clip(value, shape.low, shape.high)
    axes = tuple(range(1, value.ndim))
    kind = value.dtype.type
    if isinstance(shape, Threshold):
        spread = np.quantile(np.abs(value), shape.quantile, axis=axes, keepdims=True)
        s = np.clip(spread, 1.0, shape.most).astype(kind)
        clipped: Array = np.clip(value, -s, s) / s
        return clipped
    ratio = values[1].std(axis=axes, keepdims=True) / value.std(axis=axes, keepdims=True)
    rescaled: Array = value * (kind(shape.phi) * ratio + kind(1 - shape.phi))
    return rescaled
