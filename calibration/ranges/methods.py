"""Ranges of activations from histograms: clipped with the least expected squared error, or the full range.

The squared error of a clipped value is weighted by CLIPPED. The result includes ranges for per-channel scales
(`channel_scales.py`), so that lowerings can choose.

Rounding errors have no preferred sign, so they average out over a sum and over the steps of a plan. Clipping always
pulls towards zero, and few samples bear most of it. CLIPPED was tried at 1, 4, 8, 16 and 64 on models of
`zoo`. From 4 on the worst samples are up to 5 dB better, but with larger values fewer models gain on
average.

Quantizers (ONNX QuantizeLinear, round to nearest): asymmetric uint8 with scale (high - low) / 255 and the zero point
rounded to an integer; symmetric int8 with scale amax / 127 and integers -128 .. 127.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import isclose, isfinite
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.channel_scales import choose_channel_factors
from fewstep.calibration.ranges.histogram import BINS, Histogram, coarsen
from fewstep.calibration.ranges.readers import Reader
from fewstep.calibration.ranges.table import LEVELS, GroupRange, Range, Ranges

COARSE = np.geomspace(0.05, 1.0, 16)  # shrink factors tried first; with 8 bits clipping rarely gains much
REFINEMENTS = 3  # grids around the best factors so far, each spanning one step of the previous grid to either side
ZOOM = 4
FINE = np.linspace(-1.0, 1.0, 2 * ZOOM + 1)
SAME_LAMBDA = 1e-6  # a noise level that a plan revisits differs by some 1e-11, its steps by 1e-4 or more
CLIPPED = 4.0  # weight of the squared error of a clipped value
ROUNDING = 1e-9  # share of the mean square: a bound on the rounding error of the sums in an error
AMAX_OF_ZEROS = 1.0  # a tensor that was always zero is exact under any scale; this one cannot underflow

Error = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # shrink factors [K, ends] -> their errors [K]


def lambda_edges(lams: Sequence[float]) -> tuple[float, ...]:
    """Return the edges between range groups such that each distinct log-SNR of a plan's steps has its own group: the
    midpoints between neighbors.

    Log-SNRs that differ only by rounding are merged: ancestral solvers return to a time whose last digits differ. Next
    to an infinite one (pure noise of a flow) the edge is half the nearest step away, or 1 if only one log-SNR is
    finite.
    """
    distinct: list[float] = []
    for lam in sorted(lams):
        if not distinct or not isclose(lam, distinct[-1], rel_tol=SAME_LAMBDA, abs_tol=SAME_LAMBDA):
            distinct.append(lam)
    finite = [lam for lam in distinct if isfinite(lam)]
    reach = (finite[1] - finite[0], finite[-1] - finite[-2]) if len(finite) > 1 else (2.0, 2.0)

    def edge(a: float, b: float) -> float:
        if isfinite(a) and isfinite(b):
            return (a + b) / 2
        if isfinite(b):
            return b - reach[0] / 2
        return a + reach[1] / 2 if isfinite(a) else 0.0

    return tuple(edge(a, b) for a, b in pairwise(distinct))


def extend_ranges(ranges: Ranges, part: slice, groups: int) -> Ranges:
    """Extend ranges of the groups in `part` to all `groups`: repeat the first before them, and the last after them."""
    low, high, _ = part.indices(groups)

    def extend(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return values[:1] * low + values + values[-1:] * (groups - high)

    quotients = ranges.by_channel
    return replace(
        ranges,
        per_group=extend(ranges.per_group),
        per_group_symmetric=extend(ranges.per_group_symmetric),
        by_channel=None
        if quotients is None
        else replace(quotients, ranges=extend_ranges(quotients.ranges, part, groups)),
    )


def mse_ranges(
    groups: Sequence[Histogram],
    samples: int = 1,
    readers: Sequence[Reader] = (),
    known: Sequence[GroupRange] = (),
) -> Ranges:
    """Return the ranges of one tensor with the least squared error, from its histogram in each group over `samples`
    trajectories.

    The error over all groups together weights them equally, whatever their counts. `readers` are the operations that
    read the tensor, for per-channel scales. `known` are the ranges of each group if they were found before.
    """

    def find_range(density: Density) -> GroupRange:
        return mse_range(density, CLIPPED), mse_amax(density, CLIPPED)

    return replace(_make_ranges(groups, find_range, known), by_channel=choose_channel_factors(groups, samples, readers))


def minmax_ranges(groups: Sequence[Histogram]) -> Ranges:
    """Return the full range of a tensor, in each group and pooled."""
    return _make_ranges(groups, lambda density: (minmax_range(density), minmax_amax(density)))


def _make_ranges(
    groups: Sequence[Histogram], found: Callable[["Density"], GroupRange], known: Sequence[GroupRange] = ()
) -> Ranges:
    """Return ranges with one scale for all channels, by applying `found` to the histograms of all range groups together
    and of each one.

    A group that was always zero gets the range of all groups together. Any range is exact for it, but a range unlike
    those of the other groups would make their scales coarser if groups share a zero point or a grid.
    """
    pooled = found(Density.from_histograms(groups))

    def group_range(number: int, group: Histogram) -> GroupRange:
        if group.low == group.high == 0:
            return pooled
        return known[number] if known else found(Density.from_histograms([group]))

    ranges = [group_range(*group) for group in enumerate(groups)]
    return Ranges(
        pooled=pooled[0],
        per_group=tuple(one for one, _ in ranges),
        pooled_symmetric=pooled[1],
        per_group_symmetric=tuple(symmetric for _, symmetric in ranges),
    )


def pooled_mse_ranges(groups: Sequence[Histogram]) -> Ranges:
    """Return one 8-bit range for all groups, with the least expected squared error."""
    density = Density.from_histograms(groups)
    pooled, amax = mse_range(density), minmax_amax(density)
    return Ranges(pooled, (pooled,) * len(groups), amax, (amax,) * len(groups))


@dataclass(frozen=True)
class Density:
    """A distribution on dyadic bins as cumulative moments: sums of p, p x, p x^2 over all bins below each bin edge.

    `moments` [3, 2 * BINS + 1]. The mass of a bin is at its centre, at most 1/32 of an int8 step from its values.
    """

    width: float
    moments: NDArray[np.float64]
    low: float
    high: float

    @staticmethod
    def from_histograms(histograms: Sequence[Histogram]) -> "Density":
        """Return the mixture of the histograms with equal weights."""
        exponent = max(histogram.exponent for histogram in histograms)
        counts = [coarsen(histogram, exponent).counts for histogram in histograms]
        weight = np.sum([count / count.sum() for count in counts], axis=0) / len(counts)
        width = 2.0**exponent
        centre = (np.arange(-BINS, BINS) + 0.5) * width
        moments = np.zeros((3, 2 * BINS + 1))
        np.cumsum([weight, weight * centre, weight * centre**2], axis=1, out=moments[:, 1:])
        return Density(width, moments, min(h.low for h in histograms), max(h.high for h in histograms))

    def quantization_error(self, scale: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the expected squared error [K] of K quantizers with the 256 values scale * (least + 0 .. 255),
        including clipping.

        Every x in a cell becomes the cell's value v, so a cell adds E[x^2] - 2 v E[x] + v^2 E[1] over it. A bin belongs
        to the cell that contains its centre.
        """
        value = scale[:, None] * (least[:, None] + np.arange(LEVELS + 1))  # [K, 256]
        edge = value[:, 1:] + value[:, :-1]  # twice the end of a cell; computed in place, in the innermost loop
        edge *= 0.5 / self.width
        edge -= 0.5
        np.ceil(edge, out=edge)
        np.clip(edge, -BINS, BINS, out=edge)
        edge += BINS
        ends = np.empty((len(scale), LEVELS + 2), np.int64)  # indices into the cumulative moments
        ends[:, 0], ends[:, 1:-1], ends[:, -1] = 0, edge, 2 * BINS
        mass, first, _ = self.moments
        cells = np.diff(np.take(mass, ends))  # `take` gives the same as indexing in a quarter of the time
        cells *= value
        cells -= 2 * np.diff(np.take(first, ends))
        cells *= value
        error: NDArray[np.float64] = self.moments[2, -1] + cells.sum(axis=1)
        return error

    def clipping_error(self, scale: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the part of the error [K] from values below the first or above the last of the 256 values."""
        first, last = scale * least, scale * (least + LEVELS)
        bins = [np.clip(np.ceil(end / self.width - 0.5), -BINS, BINS).astype(np.int64) + BINS for end in (first, last)]
        outside = (self.moments[:, bins[0]], self.moments[:, -1:] - self.moments[:, bins[1]])  # each [3, K]
        parts = ((v * v * p - 2 * v * px + pxx) for v, (p, px, pxx) in zip((first, last), outside, strict=True))
        error: NDArray[np.float64] = np.sum([*parts], axis=0)
        return error


def minmax_range(density: Density) -> Range:
    low, high = min(density.low, 0.0), max(density.high, 0.0)
    return Range(low, high) if low < high else Range(0.0, AMAX_OF_ZEROS)


def minmax_amax(density: Density) -> float:
    return max(-density.low, density.high) or AMAX_OF_ZEROS


def mse_amax(density: Density, clipped: float = 1.0) -> float:
    """Return amax of the symmetric int8 quantizer with the least expected squared error. Errors of clipped values are
    weighted by `clipped`."""
    largest = minmax_amax(density)
    if density.low == density.high:  # a constant is exact at the end of its range
        return largest

    def error(factors: NDArray[np.float64]) -> NDArray[np.float64]:
        scale = factors[:, 0] * largest / 127
        return _weigh_errors(density, scale, np.full_like(scale, -128), clipped)

    (factor,) = _minimise(error, [True])
    return factor * largest


def mse_range(density: Density, clipped: float = 1.0) -> Range:
    """Return (low, high) of the asymmetric uint8 quantizer with the least expected squared error. Errors of clipped
    values are weighted by `clipped`."""
    largest = minmax_range(density)
    if density.low == density.high:
        return largest

    def error(factors: NDArray[np.float64]) -> NDArray[np.float64]:
        low, high = factors[:, 0] * largest.low, factors[:, 1] * largest.high
        scale = (high - low) / LEVELS
        return _weigh_errors(density, scale, -np.round(-low / scale), clipped)

    low, high = _minimise(error, [largest.low < 0, largest.high > 0])
    return Range(low * largest.low, high * largest.high)


def _weigh_errors(
    density: Density, scale: NDArray[np.float64], least: NDArray[np.float64], clipped: float
) -> NDArray[np.float64]:
    """Return the error of each quantizer [K]; infinite for those that cannot be the best, because their clipping error
    alone exceeds the total error of a likely candidate. This excludes most quantizers quickly: a clipping error needs
    the density's moments only at the two ends of the quantizer's range."""
    outside = clipped * density.clipping_error(scale, least)

    def error_of(which: NDArray[np.intp]) -> NDArray[np.float64]:
        error = density.quantization_error(scale[which], least[which])
        return error if clipped == 1 else error + (clipped - 1) * density.clipping_error(scale[which], least[which])

    likely = np.argmin(outside + np.square(scale) / 12).reshape(1)  # if values were uniform within a step
    rounding = ROUNDING * density.moments[2, -1]
    possible = np.flatnonzero(outside <= error_of(likely) + rounding)
    error = np.full(len(scale), np.inf)
    error[possible] = error_of(possible)
    return error


def _minimise(error: Error, is_free: Sequence[bool]) -> tuple[float, ...]:
    """Return the shrink factors with the least error: search a coarse grid over the free ones, then finer grids around
    the best.

    The grids are evenly spaced in the logarithm of the factors. Factors that are not free stay 1.
    """
    best = np.zeros(len(is_free))
    grid, reach = np.log(COARSE), -np.log(COARSE[-2])
    for _ in range(1 + REFINEMENTS):
        axes = [np.minimum(b + grid, 0.0) if free else np.zeros(1) for b, free in zip(best, is_free, strict=True)]
        candidates = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        best = candidates[np.argmin(error(np.exp(candidates)))]
        grid, reach = reach * FINE, reach / ZOOM
    return tuple(np.exp(best).tolist())
