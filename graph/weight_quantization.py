"""Quantization of weights to int8: one symmetric scale per output channel, integers in [-127, 127]. -128 is not used,
so that products stay symmetric, and a negated weight has the same range.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fewstep.graph.half_types import FLOAT16, largest_number, smallest_normal, smallest_number
from fewstep.graph.weight_pairs import LARGEST_ALONE, LARGEST_SUM, has_pairs, largest_sums, limit_pairs

LARGEST_WEIGHT = 127  # largest int8 weight
FACTORS = np.linspace(1.0, 0.4, 61)  # shares of the channel's maximum magnitude; 1 is first, so that it wins ties
BLOCK = 1 << 16  # number of weights searched at once, whose results stay in the second-level cache


@dataclass(frozen=True)
class QuantizedWeight:
    """`values` int8, in the shape of the weight; weight ~ values * scales, `scales` float32 [channels] along `axis`."""

    values: NDArray[np.int8]
    scales: NDArray[np.float32]
    axis: int

    def dequantize(self) -> NDArray[np.float32]:
        shape = [1] * self.values.ndim
        shape[self.axis] = -1
        return self.values.astype(np.float32) * self.scales.reshape(shape)


@dataclass(frozen=True)
class WeightLimits:
    """The limits of a weight's integers.

    largest: the largest magnitude.
    taps: for pairs, whose sums are limited too, the taps of each channel; None without.
    """

    largest: int
    taps: int | None = None

    def around(self, exact: NDArray[np.float64]) -> tuple[NDArray[np.float64] | int, NDArray[np.float64] | int]:
        """Return the smallest and the largest integers for weights in units of their scale, [outputs, inputs]: numbers,
        or arrays of the same shape."""
        return (-self.largest, self.largest) if self.taps is None else limit_pairs(exact, self.taps)

    def magnitudes(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the number of each row that is `largest` in units of the smallest scale for which nothing is
        clipped."""
        alone: NDArray[np.float64] = np.abs(rows).max(axis=1)
        return (
            alone
            if self.taps is None
            else np.maximum(alone, largest_sums(rows, self.taps) * self.largest / LARGEST_SUM)
        )


def quantize_weight(
    weight: NDArray[np.float32],
    axis: int,
    scale_dtype: DTypeLike = np.float32,
    in_pairs: bool = False,
    is_alike: bool = False,
) -> QuantizedWeight:
    """Quantize a weight per channel, with the scales that have the least squared error.

    Args:
        weight: any shape; Conv has its output channels on axis 0, MatMul on the last, Gemm on 1 (0 if transB).
        scale_dtype: the type in which the scales are stored. The integers are computed with the scales as stored.
        in_pairs: limit the sums of pairs of integers (`weight_pairs.py`).
        is_alike: use one scale for all channels, the best for the whole weight.

    A channel of zeros gets scale 1. Raises ValueError if a weight is NaN or infinite.
    """
    axis %= weight.ndim
    if is_alike:
        single = quantize_weight(weight.reshape(1, -1), 0, scale_dtype)
        return QuantizedWeight(single.values.reshape(weight.shape), single.scales.repeat(weight.shape[axis]), axis)
    ordered = np.moveaxis(weight, axis, 0)
    rows = ordered.reshape(len(ordered), -1)  # [channels, fan-in]
    limits = choose_limits(ordered.shape, in_pairs)
    at_once = max(1, BLOCK // rows.shape[1])
    scales, rounded = np.empty(len(rows), np.float32), np.empty(rows.shape, np.int8)
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        block = rows[part].astype(np.float64)
        if not np.isfinite(block).all():
            raise ValueError("NaN or infinite weights")
        scales[part] = _best_scales(block, scale_dtype, limits)
        rounded[part] = _round(block, scales[part], limits)
    values = np.moveaxis(rounded.reshape(ordered.shape), 0, axis)
    return QuantizedWeight(np.ascontiguousarray(values), scales, axis)


def choose_limits(shape: Sequence[int], in_pairs: bool) -> WeightLimits:
    """Return the limits of the integers of a weight [outputs, channels, *taps]. `in_pairs`: see `quantize_weight`."""
    if in_pairs and has_pairs(shape):
        return WeightLimits(LARGEST_WEIGHT, prod(shape[2:]))
    return WeightLimits(LARGEST_ALONE if in_pairs else LARGEST_WEIGHT)


def _best_scales(rows: NDArray[np.float64], dtype: DTypeLike, limits: WeightLimits) -> NDArray[np.float32]:
    """Return the scale with the smallest squared error for each row of `rows` [channels, fan-in], rounded to `dtype`.

    Each factor of a grid gives a scale that clips the largest weight or pair of a row. The error of that clipping grows
    as the factors decrease, so the search ends once it alone exceeds the best total error in every row.
    """
    held = np.empty_like(rows)  # buffer for all computation, which stays in the cache
    magnitude = limits.magnitudes(rows)
    magnitude[magnitude == 0] = limits.largest
    share = 1.0 if limits.taps is None else 0.5  # of the squared excess: two weights have half of it each
    best = np.full(len(rows), np.inf)
    scales = np.empty(len(rows), np.float32)
    for factor in FACTORS:
        candidate = _clip_weight_scales(factor * magnitude / limits.largest, dtype)
        if np.all(share * np.square(magnitude - limits.largest * candidate.astype(np.float64)) >= best):
            break
        _round(rows, candidate, limits, held)
        held *= candidate[:, None].astype(np.float64)
        held -= rows
        error = np.square(held, out=held).sum(axis=1)
        scales = np.where(error < best, candidate, scales)
        best = np.minimum(error, best)
    return scales


def clip_scales(scales: NDArray[np.float64], dtype: DTypeLike) -> NDArray[Any]:
    """Return the scales as numbers of `dtype`, clipped so that neither they nor their reciprocals are zero or
    infinite."""
    held = np.dtype(dtype)
    return scales.clip(smallest_normal(held), largest_number(held)).astype(held)


def _clip_weight_scales(scales: NDArray[np.float64], dtype: DTypeLike) -> NDArray[np.float32]:
    """Return the scales of weights, clipped to the positive numbers of `dtype`. They may be subnormal, because no
    engine divides by them."""
    held = np.dtype(dtype)
    least = smallest_number(held) if held == FLOAT16 else smallest_normal(held)
    return scales.clip(least, largest_number(held)).astype(held).astype(np.float32)


def _round(
    rows: NDArray[np.float64],
    scales: NDArray[np.float32],
    limits: WeightLimits,
    out: NDArray[np.float64] | None = None,
) -> NDArray[np.float64]:
    """Return rows / scales rounded to the nearest integers within the limits, ties to even as in ONNX QuantizeLinear.
    The result is written into `out` if given."""
    exact: NDArray[np.float64] = np.divide(rows, scales[:, None].astype(np.float64), out=out)
    low, high = limits.around(exact)
    rounded = np.rint(exact, out=exact)
    return np.minimum(np.maximum(rounded, low, out=rounded), high, out=rounded)
