"""A shaping is the only operation of a plan besides sums with fixed weights: p = shaping(values), with one value or
two.

Everything else in a plan is multiplication and addition. Published samplers apply these few operations between the
network and the update.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.spec import Strict, canonicalize

Array = NDArray[np.floating[Any]]


class Clip(Strict, frozen=True, tag="clip"):
    """Clip the predicted x0 to [low, high], elementwise, as Ho et al. 2020 do."""

    low: float
    high: float


class Threshold(Strict, frozen=True, tag="threshold"):
    """Dynamic thresholding of the predicted x0, per sample (Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    s is the `quantile` of |x0| over the sample, at least 1 and at most `most`. x0 becomes clip(x0, -s, s) / s. Without
    `most` s has no upper limit, as in the paper. With `most` 1 the result is that of Clip(-1, 1).
    """

    quantile: float = 0.995
    most: float | None = None


class Rescale(Strict, frozen=True, tag="rescale"):
    """Rescale the guided output towards the standard deviation of the conditional one (Lin et al. 2024, arXiv
    2305.08891, section 3.4): p = phi o std(o_cond) / std(o) + (1 - phi) o, with standard deviations per sample."""

    phi: float = 0.7


class MatchNorm(Strict, frozen=True, tag="match_norm"):
    """Rescale the guided output to the norm of the conditional output: p = o |o_cond| / |o|, with Euclidean norms along
    one axis of a sample, as the pipelines of Qwen-Image and Lumina 2 do.

    axis: the axis along which norms are computed, negative (counted from the last).
    """

    axis: int = -1


class GuideChannels(Strict, frozen=True, tag="guide_channels"):
    """Guide the first channels of a sample, and take the others from the conditional output, as the pipeline of Lumina
    does.

    count: the number of guided channels, along the first axis of a sample.
    """

    count: int


class GuideFrames(Strict, frozen=True, tag="guide_frames"):
    """Guide the frames of a sample by weights that grow along its first axis, as Stable Video Diffusion does:
    p = o_cond + r (o - o_cond), where r grows in equal steps from `first` to 1 in the last frame.

    first: r of the first frame, 0 for no guidance.
    """

    first: float = 0.0


class Project(Strict, frozen=True, tag="project"):
    """Adaptive projected guidance (APG: Sadat et al. 2025, arXiv 2410.02416). The difference d of the conditional and
    the unconditional output is averaged over the steps, shortened to a limit, and projected:

        d_i = o_cond - o_uncond + momentum d_{i-1}
        p = min(1, limit / |d|) (d - (1 - eta) (d . n) n), with n = o_cond / |o_cond|
        o = o_cond + (w - 1) p, with the weight w of the guidance

    Norms and products are those of a sample, or of its vectors along one axis. An eta of 1, no momentum and no limit
    are classifier-free guidance.

    eta: the factor of the part of d that is parallel to the conditional output.
    limit: the largest norm of d, or None.
    axis: the axis of the vectors, counted from the last, which is -1. None for whole samples.
    from_uncond: o is o_uncond + w p instead, as in the guiders of diffusers.
    start: the number of evaluations before the first projection. They are guided as usual, and averaged.
    """

    eta: float = 0.0
    limit: float | None = None
    momentum: float = 0.0
    axis: int | None = None
    from_uncond: bool = False
    start: int = 0


GuidedShaping = Rescale | MatchNorm | GuideChannels | GuideFrames | Project  # of the guided output; the others of x0
Shaping = Clip | Threshold | GuidedShaping
UNCLIPPED = Clip(-math.inf, math.inf)  # a caller's word for no shaping, where none given means that of the calibration


def shaping_problem(shaping: Shaping) -> str | None:
    """Return what is wrong with the numbers of a shaping, as text, or None if nothing is."""
    if isinstance(shaping, Clip):
        fine, numbers = -math.inf < shaping.low < shaping.high < math.inf, f"clips to [{shaping.low}, {shaping.high}]"
    elif isinstance(shaping, Threshold):
        fine = 0 < shaping.quantile <= 1 and (shaping.most is None or 1 <= shaping.most < math.inf)
        numbers = f"thresholds at quantile {shaping.quantile} up to {shaping.most}"
    elif isinstance(shaping, Rescale):
        fine, numbers = 0 <= shaping.phi <= 1, f"rescales with phi {shaping.phi}"
    elif isinstance(shaping, MatchNorm):
        fine, numbers = shaping.axis < 0, f"matches norms along axis {shaping.axis}"
    elif isinstance(shaping, GuideFrames):
        fine, numbers = math.isfinite(shaping.first), f"guides the first frame by {shaping.first}"
    elif isinstance(shaping, Project):
        finite = all(map(math.isfinite, (shaping.eta, shaping.momentum, shaping.limit or 0.0)))
        fine = finite and shaping.start >= 0 and (shaping.axis is None or shaping.axis < 0)
        fine = fine and (shaping.limit is None or shaping.limit > 0)
        numbers = f"projects with {shaping}"
    else:
        fine, numbers = shaping.count > 0, f"guides {shaping.count} channels"
    return None if fine else numbers


def as_shaping(value: Shaping | None) -> Shaping | None:
    """Return a shaping given by the caller, or None for UNCLIPPED. Raises UserError for any other value, and for
    invalid numbers."""
    if value is None or value == UNCLIPPED:
        return None
    if not isinstance(value, Shaping):
        raise UserError(f"{value!r} is not a shaping", "give Clip(-1, 1) or another class of fewstep.plans.shaping")
    fix = (
        "give finite low < high, 0 < quantile <= 1 <= most, phi from 0 to 1, an axis below 0, or a count or limit "
        "above 0"
    )
    return canonicalize(value, shaping_problem, fix)


def clip_to(most: float | None) -> Clip | None:
    """Return the Clip to [-most, most] for the option --clip, UNCLIPPED for infinity, and None without the option."""
    if most is None:
        return None
    if math.isnan(most) or most <= 0:
        fix = "give the largest value of a sample, above 0, such as 1, or inf for no clip"
        raise UserError(f"--clip {most:g} is out of range", fix)
    return Clip(-most, most)


def describe_shaping(shaping: Shaping) -> str:
    """Describe the shaping as text that follows the name of a plan: "clipped to [-1, 1]"."""
    if isinstance(shaping, Clip):
        return f"clipped to [{shaping.low:g}, {shaping.high:g}]"
    if isinstance(shaping, Threshold):
        return f"thresholded at quantile {shaping.quantile:g}"
    if isinstance(shaping, Rescale):
        return f"rescaled with phi {shaping.phi:g}"
    if isinstance(shaping, MatchNorm):
        return f"with the norm of the conditional output along axis {shaping.axis}"
    if isinstance(shaping, GuideFrames):
        return f"guided by weights that grow from {shaping.first:g} of their difference from 1 along the frames"
    if isinstance(shaping, Project):
        return "with projected guidance"
    return f"guided in the first {shaping.count} channels"


def value_count(shaping: Shaping) -> int:
    """Return the number of values that the shaping reads: 1 (x0), or 2 (the guided output and the conditional one; for
    `Project` the averaged difference and the conditional output)."""
    return 2 if isinstance(shaping, GuidedShaping) else 1


def quantile_place(quantile: float, count: int) -> tuple[int, int, float]:
    """Return (lower, upper, fraction) for a quantile of `count` sorted values: the indices of the two values around it,
    and its position between these two, from 0 to 1."""
    place = (count - 1) * quantile
    before = int(place)
    return before, min(before + 1, count - 1), place - before


def _quantile(values: Array, quantile: float) -> Array:
    """Return the quantile of each sample [B, 1, ...], bitwise identical to numpy 2.4's. Versions of numpy differ in the
    last bit."""
    flat = values.reshape(len(values), -1)
    before, after, part = quantile_place(quantile, flat.shape[1])
    ordered = np.partition(flat, (before, after), axis=1)
    low, high = ordered[:, before], ordered[:, after]
    quantiles = low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)
    return quantiles.reshape(len(values), *(1,) * (values.ndim - 1))


def _norm(value: Array, axis: int) -> Array:
    """Return the Euclidean norms along an axis, whose size becomes 1. Each sum is over a contiguous vector, so that its
    order does not depend on the other axes."""
    norm: Array = np.moveaxis(_last_norm(_vectors(value, axis)), -1, axis)
    return norm


def frame_shares(shaping: GuideFrames, sample: Sequence[int]) -> Array:
    """Return the fraction of the guidance that applies to each frame [frames, 1, ...] of a sample of this shape."""
    return np.linspace(shaping.first, 1.0, sample[0]).reshape(-1, *(1 for _ in sample[1:]))


def _project(shaping: Project, update: Array, conditional: Array) -> Array:
    """Return p for the averaged difference of the outputs."""
    vectors, n = (_vectors(value, shaping.axis) for value in (update, conditional))
    kind = vectors.dtype.type
    if shaping.limit is not None:
        vectors = vectors * np.minimum(kind(shaping.limit) / _last_norm(vectors), kind(1))
    if shaping.eta != 1:
        n = n / _last_norm(n)
        along = (vectors * n).sum(axis=-1, keepdims=True)
        vectors = vectors - n * (along * kind(1 - shaping.eta))
    if shaping.axis is None:
        return vectors.reshape(update.shape)
    projected: Array = np.moveaxis(vectors, -1, shaping.axis)
    return projected


def _vectors(value: Array, axis: int | None) -> Array:
    """Return the array with this axis moved to the end, or whole samples [B, elements]."""
    if axis is None:
        return value.reshape(len(value), -1)
    return np.ascontiguousarray(np.moveaxis(value, axis, -1))


def _last_norm(vectors: Array) -> Array:
    """Return the Euclidean norms along the last axis of contiguous vectors. The size of that axis becomes 1."""
    norms: Array = np.sqrt((vectors * vectors).sum(axis=-1, keepdims=True))
    return norms


def apply(shaping: Shaping, values: Sequence[Array]) -> Array:
    """Return p [B, ...] for the values [B, ...] that the shaping reads."""
    value = values[0]
    if isinstance(shaping, Clip):
        return np.clip(value, shaping.low, shaping.high)
    if isinstance(shaping, GuideChannels):
        return np.concatenate([value[:, : shaping.count], values[1][:, shaping.count :]], axis=1)
    if isinstance(shaping, GuideFrames):
        guided: Array = values[1] + (value - values[1]) * frame_shares(shaping, value.shape[1:]).astype(value.dtype)
        return guided
    axes = tuple(range(1, value.ndim))
    kind = value.dtype.type
    if isinstance(shaping, Threshold):
        s = np.clip(_quantile(np.abs(value), shaping.quantile), 1.0, shaping.most).astype(kind)
        clipped: Array = np.clip(value, -s, s) / s
        return clipped
    if isinstance(shaping, MatchNorm | Project) and -(shaping.axis or -1) >= value.ndim:
        fix = f"give one from -{value.ndim - 1} to -1"
        raise UserError(f"{shaping}: a sample has no axis {shaping.axis}", fix)
    if isinstance(shaping, Project):
        return _project(shaping, value, values[1])
    if isinstance(shaping, MatchNorm):
        matched: Array = value * (_norm(values[1], shaping.axis) / _norm(value, shaping.axis))
        return matched
    ratio = values[1].std(axis=axes, keepdims=True) / value.std(axis=axes, keepdims=True)
    rescaled: Array = value * (kind(shaping.phi) * ratio + kind(1 - shaping.phi))
    return rescaled
