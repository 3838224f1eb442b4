"""A scale for each channel of an activation, compensated in the weights:

    op(x, W)  ==>  op(x / s, s W)      s: one number for each input channel, the same in all groups

Channels of one tensor differ in range, and a single scale rounds quiet channels as coarsely as the loudest. The weights
can absorb the factors, because they have a scale for each output channel and more precision than they need. With only
the weights in int8 the result is ten decibels closer to float32 than with only the activations (measured). The extremes
of each channel are counted exactly, in the same pass as everything else. Ranges are not clipped then: once every
channel fills its range, clipping gains little on average, and costs the worst samples most.

A further trajectory exceeds the range of n trajectories with probability 1 / (n + 1), and a scale for each channel
leaves no headroom. So every channel gets headroom: a share, proportional to 1 / n, of the largest channel's range.
After a few trajectories all scales are nearly equal. Some headroom remains for any n, for the sake of the weights: a
channel divided by a small s has its weights divided by large multipliers, and those weights are rounded as before.

How much the weights can absorb depends on them. So the factors are raised to a power, chosen to minimize the squared
error of the operations' outputs from rounded activations and rounded weights (`readers.py`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.histogram import Histogram
from fewstep.calibration.ranges.readers import Reader
from fewstep.calibration.ranges.table import LEVELS, ChannelRanges, Range, Ranges

ROOM = 12.0  # headroom of each channel as a share of the largest range, multiplied by the number of trajectories
LEAST_ROOM = 1 / 8  # the least headroom, however many trajectories
POWERS = (1.0, 0.75, 0.5, 0.25)  # powers of the factors that are tried; 0 is one scale for all channels
BELOW_ZERO = (0.0, *np.geomspace(0.01, 100, 81), np.inf)  # tried values of the range below zero, relative to that above

Float = NDArray[np.float64]


def choose_channel_factors(
    groups: Sequence[Histogram], samples: int, readers: Sequence[Reader] = ()
) -> ChannelRanges | None:
    """Choose factors for the channels of one tensor, and the ranges of x / s, from its histogram in each group over
    `samples` trajectories. Return None if its channels are not counted separately or are all zero, or if one scale is
    better for its `readers`.

    x / s has the same maximum magnitude as x, so it cannot overflow. A channel that is always zero gets the root mean
    square of the other factors, so that it has no influence. A group that was always zero gets the pooled range.
    """
    lows = np.minimum([histogram.lows for histogram in groups], 0.0).astype(np.float64)  # [groups, channels]
    highs = np.maximum([histogram.highs for histogram in groups], 0.0).astype(np.float64)
    alive = np.maximum(-lows, highs) > 0
    if lows.shape[1] == 1 or not alive.any():
        return None
    seen, live = alive.any(axis=1), alive.any(axis=0)
    room = max(ROOM / samples, LEAST_ROOM)
    divisors = _factors(lows[seen][:, live], highs[seen][:, live], room)
    if readers:
        tempered = _best_power(
            divisors, lows[seen], highs[seen], np.asarray(live), channel_power(groups)[seen], readers
        )
        if tempered is None:
            return None
        divisors = tempered
    factors = np.full(lows.shape[1], np.sqrt(np.square(divisors).mean()))
    factors[live] = divisors
    low, high = (lows / factors).min(axis=1), (highs / factors).max(axis=1)
    pooled = Range(float(low.min()), float(high.max()))
    each = tuple(Range(float(a), float(b)) if a < b else pooled for a, b in zip(low, high, strict=True))
    return ChannelRanges(tuple(factors.tolist()), Ranges(pooled, each, _amax(pooled), tuple(map(_amax, each))))


def channel_power(groups: Sequence[Histogram]) -> Float:
    """Return the mean square of each channel, [groups, channels], assuming that all channels have distributions of the
    same shape: only their extremes are counted."""
    reach = np.array([np.maximum(np.abs(group.lows), np.abs(group.highs)) for group in groups], np.float64)
    squares = np.square(reach)
    means = np.maximum(squares.mean(axis=1), np.finfo(np.float64).tiny)
    power: Float = squares * (np.array([group.power for group in groups]) / means)[:, None]
    return power


def _best_power(
    full: Float, lows: Float, highs: Float, live: NDArray[np.bool_], power: Float, readers: Sequence[Reader]
) -> Float | None:
    """Return the factors `full` [live channels] raised to the exponent that causes the least error in the readers'
    outputs (geometric mean over groups), and rescaled so that the maximum magnitude of the tensor does not change.
    Return None if that exponent is 0.

    power: the mean square of each channel, [groups, channels].
    """
    best, chosen = np.inf, None
    factors, least = np.ones(len(live)), np.finfo(np.float64).tiny  # readers whose weights are all 0 have no error
    for exponent in (*POWERS, 0.0):
        factors[live] = full**exponent
        factors[~live] = np.sqrt(np.square(factors[live]).mean())
        low, high = (lows / factors).min(axis=1), (highs / factors).max(axis=1)
        errors = sum(reader.error(factors, (high - low) / LEVELS, power) for reader in readers)
        error = float(np.log(np.maximum(errors, least)).mean())
        if error < best:
            reach = max(-low.min(), high.max()) / max(-lows.min(), highs.max())
            best, chosen = error, factors[live] * reach if exponent else None
    return chosen


def channel_gain(ranges: Ranges) -> float:
    """Return the gain of per-channel scales over one scale from finer 8-bit steps, in dB over channels and groups; 0 if
    the tensor has no per-channel scales. One scale is credited with the finer steps that it gets by clipping, but not
    charged with its clipping errors."""
    by_each = ranges.by_channel
    if by_each is None:
        return 0.0
    one, many = (np.log([r.high - r.low for r in table.per_group]).mean() for table in (ranges, by_each.ranges))
    return float(20 / np.log(10) * (one - many) - 10 * np.log10(np.square(by_each.factors).mean()))


def _factors(lows: Float, highs: Float, room: float) -> Float:
    """Return the factors [channels] with the least squared rounding error: the mean over channels of (s step)^2, where
    step is the range of x / s in a group over 255, as the geometric mean over groups.

    Each channel fills the range above or below zero, on the side where it reaches relatively further. The search is
    over the range below zero: after a SiLU, quiet channels have little else.
    """
    best, chosen = np.inf, np.ones(lows.shape[1])
    lowest, highest = lows.min(axis=0), highs.max(axis=0)
    for below in BELOW_ZERO:
        with np.errstate(divide="ignore", invalid="ignore"):
            needed = np.maximum(highest, np.where(lowest < 0, -lowest / below, 0.0))
        if not np.isfinite(needed).all() or not needed.any():
            continue
        factors = needed / needed.max() + room
        low, high = (lows / factors).min(axis=1), (highs / factors).max(axis=1)
        error = 2 * float(np.log(high - low).mean()) + float(np.log(np.square(factors).mean()))
        if error < best:
            best, chosen = error, factors * max(-low.min(), high.max()) / max(-lows.min(), highs.max())
    return chosen


def _amax(ends: Range) -> float:
    return max(-ends.low, ends.high)
