"""Ranges of activations from histograms, clipped with the least expected squared error, or not at all.

The error of a clipped value counts CLIPPED times. Ranges with a scale for each channel (`channels.py`) come with them,
for lowerings to choose from.

Rounding has no direction, so its errors average out over a sum and over the steps of a plan. Clipping always pulls
towards zero, and few samples bear most of it. CLIPPED was tried at 1, 4, 8, 16 and 64 on models of `benchmarks/zoo`:
from 4 on the worst samples are up to 5 dB better, and the more it is the fewer models win by it in the mean.

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

COARSE = np.geomspace(0.05, 1.0, 16)  # shrink factors tried first; 8 bits rarely gain from clipping at all
REFINEMENTS = 3  # grids around the best factors so far, each reaching as far as the last one's neighbours
ZOOM = 4
FINE = np.linspace(-1.0, 1.0, 2 * ZOOM + 1)
SAME_LAMBDA = 1e-6  # a noise level that a plan comes back to differs by some 1e-11, its steps by 1e-4 or more
CLIPPED = 4.0  # times that the squared error of a clipped value counts
ROUNDING = 1e-9  # of the mean square: sums that give errors are nearer to them than this
AMAX_OF_ZEROS = 1.0  # a tensor that was always zero is exact under any scale; this one cannot underflow

Error = Callable[[NDArray[np.float64]], NDArray[np.float64]]  # of shrink factors [K, ends] -> [K]


def lambda_edges(lams: Sequence[float]) -> tuple[float, ...]:
    """Edges of groups that give each distinct lambda of a plan's steps its own group: midpoints between neighbours.

    Lambdas within rounding of each other are one: ancestral solvers come back to a time with others in the last digits.
    At an infinite lambda (pure noise of a flow) the edge lies where the next one would, or one away if it is alone.
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
    """Ranges of neighbouring groups, as ranges of all `groups`: the first one's ahead, and the last one's behind."""
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
    """Ranges of one tensor from its histogram in each group, seen in so many trajectories. Pooled error counts every
    group alike, however large. `readers` are the operations that read it, for scales of channels. `known` are the
    ranges of each group, where they were found before."""

    def find_range(density: Density) -> GroupRange:
        return mse_range(density, CLIPPED), mse_amax(density, CLIPPED)

    return replace(_make_ranges(groups, find_range, known), by_channel=choose_channel_factors(groups, samples, readers))


def minmax_ranges(groups: Sequence[Histogram]) -> Ranges:
    """The whole of what a tensor reached, in each group and in all."""
    return _make_ranges(groups, lambda density: (minmax_range(density), minmax_amax(density)))


def _make_ranges(
    groups: Sequence[Histogram], found: Callable[["Density"], GroupRange], known: Sequence[GroupRange] = ()
) -> Ranges:
    """Ranges of one scale for all channels, as they are `found` in the groups together and in each.

    A group that was always zero has the pooled range: any is exact for it, and one unlike the other groups' ranges
    would coarsen their scales where groups share a zero point or a grid.
    """
    pooled = found(Density.from_histograms(groups))

    def group_range(number: int, group: Histogram) -> GroupRange:
        if group.low == group.high == 0:
            return pooled
        return known[number] if known else found(Density.from_histograms([group]))

    ranges = [group_range(*each) for each in enumerate(groups)]
    return Ranges(
        pooled=pooled[0],
        per_group=tuple(one for one, _ in ranges),
        pooled_symmetric=pooled[1],
        per_group_symmetric=tuple(symmetric for _, symmetric in ranges),
    )


def pooled_mse_ranges(groups: Sequence[Histogram]) -> Ranges:
    """One range of 8 bits for all groups, with the least expected squared error."""
    density = Density.from_histograms(groups)
    pooled, amax = mse_range(density), minmax_amax(density)
    return Ranges(pooled, (pooled,) * len(groups), amax, (amax,) * len(groups))


@dataclass(frozen=True)
class Density:
    """A distribution on dyadic bins as running moments: sums of p, p x, p x^2 over all bins below each bin edge.

    `moments` [3, 2 * BINS + 1]; a bin's mass sits at its centre, 1/32 of a step or less from where it was.
    """

    width: float
    moments: NDArray[np.float64]
    low: float
    high: float

    @staticmethod
    def from_histograms(histograms: Sequence[Histogram]) -> "Density":
        """The mixture with equal weights."""
        exponent = max(histogram.exponent for histogram in histograms)
        counts = [coarsen(histogram, exponent).counts for histogram in histograms]
        weight = np.sum([count / count.sum() for count in counts], axis=0) / len(counts)
        width = 2.0**exponent
        centre = (np.arange(-BINS, BINS) + 0.5) * width
        moments = np.zeros((3, 2 * BINS + 1))
        np.cumsum([weight, weight * centre, weight * centre**2], axis=1, out=moments[:, 1:])
        return Density(width, moments, min(h.low for h in histograms), max(h.high for h in histograms))

    def quantization_error(self, scale: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected squared error [K] of K quantizers with 256 values scale * (least + 0 .. 255), clipping outside.

        Every x in a cell becomes the cell's value v, so a cell adds E[x^2] - 2 v E[x] + v^2 E[1] over it. A bin belongs
        to the cell that its centre is in.
        """
        value = scale[:, None] * (least[:, None] + np.arange(LEVELS + 1))  # [K, 256]
        edge = value[:, 1:] + value[:, :-1]  # half of it is where a cell ends; computed in place, in the innermost loop
        edge *= 0.5 / self.width
        edge -= 0.5
        np.ceil(edge, out=edge)
        np.clip(edge, -BINS, BINS, out=edge)
        edge += BINS
        ends = np.empty((len(scale), LEVELS + 2), np.int64)  # in the running moments
        ends[:, 0], ends[:, 1:-1], ends[:, -1] = 0, edge, 2 * BINS
        mass, first, _ = self.moments
        cells = np.diff(np.take(mass, ends))  # take: the same as indexing, in a fourth of its time
        cells *= value
        cells -= 2 * np.diff(np.take(first, ends))
        cells *= value
        error: NDArray[np.float64] = self.moments[2, -1] + cells.sum(axis=1)
        return error

    def clipping_error(self, scale: NDArray[np.float64], least: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of `error` [K] that values outside of the 256 have: below the first, and above the last."""
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
    """amax of the symmetric int8 quantizer with the least expected squared error, which counts `clipped` times where it
    clips."""
    largest = minmax_amax(density)
    if density.low == density.high:  # a constant is exact at the end of its range
        return largest

    def error(factors: NDArray[np.float64]) -> NDArray[np.float64]:
        scale = factors[:, 0] * largest / 127
        return _weigh_errors(density, scale, np.full_like(scale, -128), clipped)

    (factor,) = _minimise(error, [True])
    return factor * largest


def mse_range(density: Density, clipped: float = 1.0) -> Range:
    """(low, high) of the asymmetric uint8 quantizer with the least expected squared error, which counts
    `clipped` times where it clips."""
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
    """The error of each quantizer [K]; infinite for those that surely are not the best: what they clip is more than all
    the error of another one. The two ends of most show it."""
    outside = clipped * density.clipping_error(scale, least)

    def error_of(which: NDArray[np.intp]) -> NDArray[np.float64]:
        error = density.quantization_error(scale[which], least[which])
        return error if clipped == 1 else error + (clipped - 1) * density.clipping_error(scale[which], least[which])

    likely = np.argmin(outside + np.square(scale) / 12).reshape(1)  # as if values were spread evenly within a step
    rounding = ROUNDING * density.moments[2, -1]
    possible = np.flatnonzero(outside <= error_of(likely) + rounding)
    error = np.full(len(scale), np.inf)
    error[possible] = error_of(possible)
    return error


def _minimise(error: Error, is_free: Sequence[bool]) -> tuple[float, ...]:
    """The shrink factors with the least error: a coarse grid over those that are free, then finer ones around the best.

    The grids are even in log factor. Factors that are not free stay 1.
    """
    best = np.zeros(len(is_free))
    grid, reach = np.log(COARSE), -np.log(COARSE[-2])
    for _ in range(1 + REFINEMENTS):
        axes = [np.minimum(b + grid, 0.0) if free else np.zeros(1) for b, free in zip(best, is_free, strict=True)]
        candidates = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(axes))
        best = candidates[np.argmin(error(np.exp(candidates)))]
        grid, reach = reach * FINE, reach / ZOOM
    return tuple(np.exp(best).tolist())
