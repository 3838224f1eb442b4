"""Quantization of weights to 4 bits: each group of consecutive inputs of an output has its own scale and zero point, as
MatMulNBits of onnxruntime reads them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

GROUPS = (128, 64, 32)  # numbers of inputs that may share a scale, the best first: lab/trials.md compares them
LARGEST_CODE = 15
FACTORS = np.linspace(1.0, 0.5, 26)  # shares of a group's range; 1 is first, so that it wins ties
AT_ONCE = 1 << 18  # weights whose scales are searched at once

Float = NDArray[np.float64]


@dataclass(frozen=True)
class GroupedWeight:
    """A weight [inputs, outputs] ~ (codes - zeros) * scales of its group, transposed.

    codes: uint8 [outputs, inputs], from 0 to 15.
    scales: float16 [outputs, groups].
    zeros: uint8 [outputs, groups], from 0 to 15.
    group: number of inputs of a group; the last one may have fewer.
    """

    codes: NDArray[np.uint8]
    scales: NDArray[np.float16]
    zeros: NDArray[np.uint8]
    group: int

    def dequantize(self) -> NDArray[np.float32]:
        """Return the weight as float32 [inputs, outputs]."""
        inputs = self.codes.shape[1]
        scales, zeros = (spread_groups(table, self.group, inputs) for table in (self.scales, self.zeros))
        return np.ascontiguousarray(((self.codes - zeros) * scales).T.astype(np.float32))


def quantize_in_groups(rows: NDArray[np.floating], group: int) -> GroupedWeight:
    """Return a weight [outputs, inputs] in 4 bits, each number as the nearest code, with groups of `group` inputs.

    Raises ValueError if a number is NaN or infinite.
    """
    outputs, inputs = rows.shape
    count = -(-inputs // group)
    scales, zeros = np.empty((outputs, count), np.float16), np.empty((outputs, count), np.uint8)
    codes = np.empty((outputs, inputs), np.uint8)
    at_once = max(1, AT_ONCE // inputs)
    for start in range(0, outputs, at_once):
        part = slice(start, start + at_once)
        block = rows[part].astype(np.float64)
        scales[part], zeros[part] = choose_scales(block, group)
        spread = (spread_groups(table[part], group, inputs) for table in (scales, zeros))
        codes[part] = round_to_nearest(block, *spread)
    return GroupedWeight(codes, scales, zeros, group)


def group_size(inputs: int) -> int:
    """Return the group for a weight with this number of inputs: of `GROUPS`, the one for which the last group is padded
    least."""
    return min(GROUPS, key=lambda group: -inputs % group)


def spread_groups(numbers: NDArray[Any], group: int, inputs: int) -> Float:
    """Return the number of each input's group, [outputs, inputs], from numbers [outputs, groups]."""
    return numbers.astype(np.float64).repeat(group, axis=1)[:, :inputs]


def choose_scales(
    rows: Float, group: int, importance: Float | None = None
) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return the scales and zero points [outputs, groups] with the least squared error of each group of `rows`
    [outputs, inputs]. The range of a group always contains zero.

    importance: [inputs], the weights of the squared errors; None weighs all inputs alike.
    Raises ValueError if a weight is NaN or infinite.
    """
    if not np.isfinite(rows).all():
        raise ValueError("NaN or infinite weights")
    count = -(-rows.shape[1] // group)
    weighed = _split_groups(np.ones(rows.shape[1]) if importance is None else importance, group)
    scales, zeros = np.empty((len(rows), count), np.float16), np.empty((len(rows), count), np.uint8)
    at_once = max(1, AT_ONCE // rows.shape[1])
    for start in range(0, len(rows), at_once):
        part = slice(start, start + at_once)
        scales[part], zeros[part] = _search_scales(_split_groups(rows[part], group), weighed)
    return scales, zeros


def _split_groups(values: Float, group: int) -> Float:
    """Return values [..., inputs] as [..., groups, group], padded with zeros."""
    padding = [(0, 0)] * (values.ndim - 1) + [(0, -values.shape[-1] % group)]
    return np.pad(values, padding).reshape(*values.shape[:-1], -1, group)


def _search_scales(groups: Float, importance: Float) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """Return the best scales and zero points of `groups` [outputs, groups, inputs], among those whose ranges are
    FACTORS of the groups' ranges. Errors are compared in float32, in place: this is most of an export's time."""
    low, high = np.minimum(groups.min(axis=2), 0.0), np.maximum(groups.max(axis=2), 0.0)
    best = np.full(low.shape, np.inf)
    scales, zeros = np.ones(low.shape, np.float16), np.zeros(low.shape, np.uint8)
    tiny, largest = float(np.finfo(np.float16).smallest_subnormal), float(np.finfo(np.float16).max)
    values = groups.astype(np.float32)
    ratios, errors = np.empty_like(values), np.empty_like(values)
    weights = None if (importance == 1).all() else importance.astype(np.float32)
    for factor in FACTORS:
        candidate = (factor * (high - low) / LARGEST_CODE).clip(tiny, largest).astype(np.float16)
        scale = candidate.astype(np.float64)
        zero = np.rint(-factor * low / scale).clip(0, LARGEST_CODE)
        lowest = -zero.astype(np.float32)[..., None]  # code minus zero point
        np.divide(values, scale.astype(np.float32)[..., None], out=ratios)
        np.rint(ratios, out=errors)
        np.maximum(errors, lowest, out=errors)
        np.minimum(errors, lowest + LARGEST_CODE, out=errors)
        np.subtract(errors, ratios, out=errors)
        parts = (errors, errors) if weights is None else (errors, errors, weights)
        error = np.square(scale) * np.einsum("ogi,ogi->og" if weights is None else "ogi,ogi,gi->og", *parts)
        is_better = error < best
        best = np.where(is_better, error, best)
        scales, zeros = np.where(is_better, candidate, scales), np.where(is_better, zero, zeros).astype(np.uint8)
    return scales, zeros


def round_to_nearest(rows: Float, scales: Float, zeros: Float) -> NDArray[np.uint8]:
    """Return the nearest codes of `rows`, given the scale and the zero point of each input, all [outputs, inputs]."""
    codes: NDArray[np.uint8] = np.rint(rows / scales + zeros).clip(0, LARGEST_CODE).astype(np.uint8)
    return codes
