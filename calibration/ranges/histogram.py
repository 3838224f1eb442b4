"""Histograms whose bin widths are powers of two, so that they can be merged without loss.

Bin k covers [k w, (k + 1) w) with w = 2**exponent and -BINS <= k < BINS. Doubling w merges bins 2k and 2k + 1 into bin
k exactly, and the exponent depends only on the largest magnitude. So any batches of the same values, merged in any
order, give bitwise identical counts.
"""

from dataclasses import dataclass, replace
from math import frexp, isfinite, prod

import numpy as np
from numpy.typing import NDArray

LOG2_BINS = 12
BINS = 1 << LOG2_BINS  # per side: the largest magnitude is 2048 to 4096 bins from zero, at least 16 per int8 step
MIN_EXPONENT = -120  # least exponent of the bin width, so that 1 / width is a normal float32
CHUNK = 1 << 15  # values binned at once: their temporaries, 0.5 MB, stay in the second-level cache


@dataclass(frozen=True)
class Histogram:
    """Counts of values by dyadic bin, and the exact extremes of each channel.

    `stored` are the counts from the first to the last nonempty bin, where `first` is the offset of the first one from
    -BINS: a calibration keeps one histogram per tensor and group, thousands in all. `lows` and `highs` are float32
    [channels]; [1] if channels are not counted separately.
    """

    exponent: int
    first: int
    stored: NDArray[np.unsignedinteger]
    lows: NDArray[np.float32]
    highs: NDArray[np.float32]

    @property
    def low(self) -> float:
        return float(self.lows.min())

    @property
    def high(self) -> float:
        return float(self.highs.max())

    @property
    def counts(self) -> NDArray[np.int64]:
        """The counts [2 * BINS] of all bins, from -BINS up."""
        counts = np.zeros(2 * BINS, np.int64)
        counts[self.first : self.first + len(self.stored)] = self.stored
        return counts

    @property
    def power(self) -> float:
        """The mean square of the values, approximated by bin centres."""
        centres = (np.arange(len(self.stored)) + (self.first - BINS + 0.5)) * 2.0**self.exponent
        return float(np.average(np.square(centres), weights=self.stored))


def make_histogram(values: NDArray[np.float32], axis: int | None = None) -> Histogram:
    """Return the histogram of float32 values of any shape, with the extremes of each channel along `axis`.

    Raises ValueError if there are no values, or one is not finite.
    """
    if values.size == 0:
        raise ValueError("no values")
    lows, highs = _extremes(values, axis)
    low, high = float(lows.min()), float(highs.max())  # both are NaN if any value is
    if not (isfinite(low) and isfinite(high)):
        raise ValueError("NaN" if low != low else "infinite values")
    exponent = _exponent(max(-low, high))
    # Scaling by 1 / width must be exact. In float32 it is when it enlarges. When it shrinks, a subnormal could become
    # -0.0 and change bins, so wide ranges (bins above 1) take float64.
    scale = (np.float32 if exponent <= 0 else np.float64)(2.0**-exponent)
    first, last = (int(np.floor(end * scale)) for end in (scale.dtype.type(low), scale.dtype.type(high)))
    flat, counts = values.reshape(-1), np.zeros(last - first + 1, np.int64)
    for start in range(0, flat.size, CHUNK):
        bins = np.multiply(flat[start : start + CHUNK], scale, dtype=scale.dtype)
        np.floor(bins, out=bins)
        bins -= first
        # through int32: CPUs convert several floats to int32 at once, but only one at a time to int64
        counts += np.bincount(bins.astype(np.int32).astype(np.int64), minlength=len(counts))
    return Histogram(exponent, first + BINS, _compact_counts(counts), lows, highs)


def merge_histograms(a: Histogram, b: Histogram) -> Histogram:
    """Return the histogram of both sets of values. Exactly associative and commutative."""
    exponent = max(a.exponent, b.exponent)
    a, b = coarsen(a, exponent), coarsen(b, exponent)
    first = min(a.first, b.first)
    counts = np.zeros(max(operand.first + len(operand.stored) for operand in (a, b)) - first, np.int64)
    for operand in (a, b):
        counts[operand.first - first :][: len(operand.stored)] += operand.stored.astype(np.int64)
    lows, highs = np.minimum(a.lows, b.lows), np.maximum(a.highs, b.highs)
    return Histogram(exponent, first, _compact_counts(counts), lows, highs)


def coarsen(histogram: Histogram, exponent: int) -> Histogram:
    """Return the histogram of the same values in wider bins, of width 2**exponent."""
    doublings = min(exponent - histogram.exponent, LOG2_BINS + 1)  # after this many only bins -1 and 0 are left
    if doublings == 0:
        return histogram
    if doublings < 0:
        raise ValueError(f"bins of 2**{histogram.exponent} cannot be split into bins of 2**{exponent}")
    joined = 1 << doublings
    edges = np.arange(-((histogram.first - BINS) % joined), len(histogram.stored), joined)  # edges of the wide bins
    first = (histogram.first - BINS) // joined + BINS
    edges[0] = 0
    counts = np.add.reduceat(histogram.stored, edges, dtype=np.int64)
    return replace(histogram, exponent=exponent, first=first, stored=_compact_counts(counts))


def _extremes(values: NDArray[np.float32], axis: int | None) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the minimum and maximum of each channel. Negative zeros become positive, so that the result does not
    depend on the order of the values."""
    axis = None if axis is None else axis % values.ndim
    outer, channels = (1, 1) if axis is None else (prod(values.shape[:axis]), values.shape[axis])
    lows = highs = values
    if outer > 1:  # one axis at a time: numpy is several times slower over both at once
        flat = values.reshape(outer, -1)
        lows, highs = flat.min(axis=0), flat.max(axis=0)
    return lows.reshape(channels, -1).min(axis=1) + 0, highs.reshape(channels, -1).max(axis=1) + 0


def _compact_counts(counts: NDArray[np.int64]) -> NDArray[np.unsignedinteger]:
    """Return the counts in half the bytes if they fit."""
    return counts.astype(np.uint32 if counts.max() < 2**32 else np.uint64)


def _exponent(magnitude: float) -> int:
    """Return the smallest exponent with magnitude < BINS * 2**exponent."""
    return max(frexp(magnitude)[1] - LOG2_BINS, MIN_EXPONENT) if magnitude else MIN_EXPONENT
