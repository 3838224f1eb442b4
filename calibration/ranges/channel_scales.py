"""A scale for each channel of an activation, which weights take back:

    op(x, W)  ==>  op(x / s, s W)      s: one number for each input channel, the same in all groups

Channels of one tensor reach differently far, and one scale for all rounds the quiet ones as coarsely as the loudest.
Weights can take the factors, for they have a scale for each output channel and bits to spare: in int8 alone they are
ten decibels nearer to float32 than activations are (measured). What each channel reaches is counted exactly, in the one
pass that counts all else. Nothing is clipped then: with every channel filling its range that wins little in the mean,
and costs the worst samples most.

Of the reach of n trajectories a further one goes beyond with a chance of 1 / (n + 1), and with a scale for each channel
none has room to spare. Every channel therefore gets a share, of 1 / n, of the largest one's range besides its own:
after a few trajectories scales of channels are nearly alike. However many there are it gets some, for the sake of
weights: what is divided by a small s is multiplied by weights that are rounded as before.

How much weights can take depends on them. So a power of these factors is taken, the one with the least squared error in
what the operations make: of rounded activations, and of rounded weights (`readers.py`).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.histogram import Histogram
from fewstep.calibration.ranges.readers import Reader
from fewstep.calibration.ranges.table import LEVELS, ChannelRanges, Range, Ranges

ROOM = 12.0  # over the number of trajectories: the share of the largest range that each channel gets besides its own
LEAST_ROOM = 1 / 8  # of many trajectories
POWERS = (1.0, 0.75, 0.5, 0.25)  # of the factors, that are tried; 0 is one scale for all
BELOW_ZERO = (0.0, *np.geomspace(0.01, 100, 81), np.inf)  # tried: how far ranges go below zero, in how far above

Float = NDArray[np.float64]


def choose_channel_factors(
    groups: Sequence[Histogram], samples: int, readers: Sequence[Reader] = ()
) -> ChannelRanges | None:
    """Factors for the channels of one tensor from its histogram in each group, seen in so many trajectories, and the
    ranges of x / s; None if its channels are not kept apart, or all zero, or one scale is better for its `readers`.

    x / s reaches as far as x: nothing overflows by it. A channel that is always zero has the root mean square of the
    others, so that it counts for none of them. A group that was always zero has the pooled range.
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
    """The mean square of each channel, [groups, channels], as if all channels had distributions of one shape: only
    their extremes are counted."""
    reach = np.array([np.maximum(np.abs(each.lows), np.abs(each.highs)) for each in groups], np.float64)
    squares = np.square(reach)
    means = np.maximum(squares.mean(axis=1), np.finfo(np.float64).tiny)
    power: Float = squares * (np.array([each.power for each in groups]) / means)[:, None]
    return power


def _best_power(
    full: Float, lows: Float, highs: Float, live: NDArray[np.bool_], power: Float, readers: Sequence[Reader]
) -> Float | None:
    """The power of the factors [live channels] with the least error in what readers make, on the geometric mean over
    groups; None if that is 0. The loudest channel reaches as far as before."""
    best, chosen = np.inf, None
    factors, least = np.ones(len(live)), np.finfo(np.float64).tiny  # readers whose weights are all 0 make no error
    for exponent in (*POWERS, 0.0):
        factors[live] = full**exponent
        factors[~live] = np.sqrt(np.square(factors[live]).mean())
        low, high = (lows / factors).min(axis=1), (highs / factors).max(axis=1)
        errors = sum(each.error(factors, (high - low) / LEVELS, power) for each in readers)
        error = float(np.log(np.maximum(errors, least)).mean())
        if error < best:
            reach = max(-low.min(), high.max()) / max(-lows.min(), highs.max())
            best, chosen = error, factors[live] * reach if exponent else None
    return chosen


def channel_gain(ranges: Ranges) -> float:
    """The gain of a scale for each channel over one scale by finer steps of 8 bits, in dB over channels and groups; 0
    without such a choice. That one scale clips counts for it, and what it clips not against it."""
    by_each = ranges.by_channel
    if by_each is None:
        return 0.0
    one, many = (np.log([r.high - r.low for r in each.per_group]).mean() for each in (ranges, by_each.ranges))
    return float(20 / np.log(10) * (one - many) - 10 * np.log10(np.square(by_each.factors).mean()))


def _factors(lows: Float, highs: Float, room: float) -> Float:
    """The factors [channels] with the least squared error of rounding: the mean of (s step)^2 over channels, the step
    being the range of x / s in a group over 255, on the geometric mean over groups.

    Each channel fills the range, above zero or below, whichever it reaches further into. What is searched is how far
    the range goes below: behind a SiLU quiet channels have nothing but what is there.
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
