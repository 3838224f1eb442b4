"""Weights whose rounding errors cancel in the output of a layer: each input's error is compensated by later inputs
(GPTQ: Frantar, Ashkboos, Hoefler, Alistarh 2022, arXiv 2210.17323).

The squared error of a layer's output is tr(E H E^T), with E the errors of its weights [outputs, inputs] and H the
second moments of its inputs. With H = R R^T and R upper triangular it is the sum over inputs j, and over outputs, of

    (R[j, j] E[:, j] + sum over i < j of R[i, j] E[:, i])^2

so the best real value of a weight follows from the errors of the inputs before it. This is GPTQ without the inverse
of H (QuIP: Chee, Cai, Kuleshov, De Sa 2023, arXiv 2307.13304, theorem 6). Damping and the order of the inputs are as in
the authors' code with `act_order`. H is split into blocks of a few inputs (`calibration/ranges/moments.py`).
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.moments import split_inputs
from fewstep.graph.grouped_weights import (
    LARGEST_CODE,
    GroupedWeight,
    choose_scales,
    spread_groups,
)
from fewstep.graph.selection import WeightedOp
from fewstep.graph.weight_pairs import limit_pairs
from fewstep.graph.weight_quantization import QuantizedWeight, choose_limits

DAMPING = 0.01  # share of the mean second moment that is added to the diagonal, so that H is positive definite
AT_ONCE = 1 << 18  # weights that are rounded at once; each takes some 60 bytes meanwhile
TOGETHER = 32  # inputs whose errors are carried to all later inputs in one product

Float = NDArray[np.float64]


def correct_rounding(
    nearest: QuantizedWeight,
    weight: NDArray[np.float32],
    op: WeightedOp,
    moments: NDArray[np.float32],
    multipliers: Float | None,
    in_pairs: bool = False,
) -> QuantizedWeight:
    """Return the weight with the scales of `nearest`, and with the integers that cause the least output error according
    to the moments.

    Args:
        weight: the weight of the operation in its own axes, divided by the multipliers.
        moments: second moments of the operation's input before the multipliers, [blocks, width, width] as in
            `calibration/ranges/moments.py`.
        multipliers: [channels], the multipliers of the input; None if the graph does not multiply it.
        in_pairs: whether the sums of pairs of integers are limited, as in `quantize_weight`.
    """
    blocks = split_inputs(op, weight.shape, moments.shape[-1])
    ordered = np.moveaxis(weight, op.axis, 0)
    rows = ordered.reshape(len(ordered), -1)  # [outputs, inputs of a group]
    limits = choose_limits(ordered.shape, in_pairs)
    integers = np.empty(rows.shape, np.int8)
    factors = np.ones(blocks.inputs) if multipliers is None else multipliers.repeat(blocks.taps)  # factor of each input
    at_once = max(1, AT_ONCE // (blocks.outputs * blocks.width))
    at_most = max(1, AT_ONCE // blocks.width)  # outputs
    for start in range(0, len(blocks.spans), at_once):
        spans = blocks.spans[start : start + at_once]
        scaled = np.stack([_pad_inputs(factors[span], blocks.width) for span in spans])
        part = moments[start : start + at_once] * (scaled[:, :, None] * scaled[:, None, :])
        for first in range(0, blocks.outputs, at_most):
            places = [blocks.place(span, slice(first, min(first + at_most, blocks.outputs))) for span in spans]
            wanted = np.stack([_pad_inputs(rows[place], blocks.width) for place in places])
            scales = np.stack([nearest.scales[outputs].astype(np.float64) for outputs, _ in places])
            ends: tuple[Float | int, Float | int] = -limits.largest, limits.largest
            if limits.taps is not None:
                of_places = [_limit_pairs(rows, place, nearest, limits.taps) for place in places]
                low, high = (
                    np.stack([_pad_inputs(end, blocks.width) for end in limit])
                    for limit in zip(*of_places, strict=True)
                )
                ends = low, high
            for (outputs, inputs), block in zip(places, round_gptq(wanted, scales, part, ends), strict=True):
                integers[outputs, inputs] = block[:, : inputs.stop - inputs.start]
    values = np.moveaxis(integers.reshape(ordered.shape), 0, op.axis)
    return replace(nearest, values=np.ascontiguousarray(values))


def _limit_pairs(
    rows: NDArray[np.float32], place: tuple[slice, slice], nearest: QuantizedWeight, taps: int
) -> tuple[Float, Float]:
    """Return the limits of the integers at a place of the rows. A pair may reach beyond the place."""
    outputs, inputs = place
    of_pair = 2 * taps
    first, last = inputs.start // of_pair * of_pair, -(-inputs.stop // of_pair) * of_pair
    part = slice(inputs.start - first, inputs.stop - first)
    exact = rows[outputs, first:last] / nearest.scales[outputs, None].astype(np.float64)
    low, high = limit_pairs(exact, taps)
    return low[:, part], high[:, part]


def round_in_groups(
    weight: NDArray[np.float32], op: WeightedOp, moments: NDArray[np.float32], group: int
) -> GroupedWeight:
    """Return the weight of a matrix product in 4 bits, with groups of `group` inputs and the codes that cause the least
    output error according to the second moments of its input, as in `correct_rounding`. The squared errors that choose
    a group's scale are weighted by the second moment of each input.

    Raises ValueError if a weight is NaN or infinite.
    """
    rows = np.moveaxis(weight, op.axis, 0)  # [outputs, inputs]
    outputs, inputs = rows.shape
    spans = list(zip(split_inputs(op, weight.shape, moments.shape[-1]).spans, moments, strict=True))
    importance, count = _second_moments(spans), -(-inputs // group)
    scales, zeros = np.empty((outputs, count), np.float16), np.empty((outputs, count), np.uint8)
    codes = np.empty(rows.shape, np.uint8)
    at_most = max(1, AT_ONCE // inputs)  # outputs
    for start in range(0, outputs, at_most):
        part = slice(start, start + at_most)
        block_rows = rows[part].astype(np.float64)
        scales[part], zeros[part] = choose_scales(block_rows, group, importance)
        scale, zero = (spread_groups(table[part], group, inputs) for table in (scales, zeros))
        for span, block in spans:
            size = span.stop - span.start
            limits = -zero[:, span], LARGEST_CODE - zero[:, span]
            sums = block[None, :size, :size].astype(np.float64)
            codes[part, span] = (
                round_gptq(block_rows[None, :, span], scale[None, :, span], sums, limits)[0] + zero[:, span]
            )
    return GroupedWeight(codes, scales, zeros, group)


def _second_moments(spans: Sequence[tuple[slice, NDArray[np.float32]]]) -> Float | None:
    """Return the second moment of each input, or None if they are zero or overflow."""
    moments = np.concatenate([np.diagonal(block)[: span.stop - span.start] for span, block in spans])
    return moments.astype(np.float64) if np.isfinite(moments).all() and moments.any() else None


def round_gptq(rows: Float, scales: Float, moments: Float, limits: tuple[Float | int, Float | int]) -> Float:
    """Round weights by GPTQ. Return integers within the limits such that `rows` [blocks, outputs, inputs] is about
    integers * scales.

    scales: [blocks, outputs], or a scale for each input, [blocks, outputs, inputs].
    moments: second moments of the inputs, [blocks, inputs, inputs]. Inputs are rounded in decreasing order of their
        second moments. A block whose inputs were always zero, or whose moments overflow, is rounded to the nearest
        integers.
    limits: the smallest and the largest integers: numbers, [outputs, inputs] or [blocks, outputs, inputs].
    """
    steps = scales[:, :, None] if scales.ndim == 2 else scales
    mean = np.diagonal(moments, axis1=1, axis2=2).mean(axis=1)
    is_seen = np.isfinite(mean) & (mean > 0)
    moments = np.where(is_seen[:, None, None], moments, 0.0)
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    back = order[:, ::-1]
    turned = np.take_along_axis(np.take_along_axis(moments, back[:, :, None], 1), back[:, None, :], 2)
    turned += np.where(is_seen, DAMPING * mean, 1.0)[:, None, None] * np.eye(turned.shape[-1])
    factor = np.linalg.cholesky(turned)[:, ::-1, ::-1]  # R: Cholesky factor of H in reverse order, reversed back
    upper = np.ascontiguousarray((factor / np.diagonal(factor, axis1=1, axis2=2)[:, None, :]).swapaxes(1, 2))

    def in_order(values: Float) -> Float:
        """Return values of [blocks, outputs, inputs] as [blocks, inputs, outputs], in the order of rounding."""
        rows_of = np.broadcast_to(values, rows.shape).swapaxes(1, 2)
        return np.stack([block[places] for block, places in zip(rows_of, order, strict=True)])

    exact = in_order(rows / steps)
    sizes = None if scales.ndim == 2 else in_order(steps / steps[:, :, :1])  # of steps, relative to the first input's
    least, most = (limit if isinstance(limit, int) else in_order(limit) for limit in limits)
    errors, before = np.empty(exact.shape), np.zeros(exact.shape)  # in steps of the first input
    for start in range(0, exact.shape[1], TOGETHER):
        stop = min(start + TOGETHER, exact.shape[1])
        for number in range(start, stop):
            before[:, number] += (upper[:, None, number, start:number] @ errors[:, start:number])[:, 0]
            size = 1.0 if sizes is None else sizes[:, number]
            rounded = np.rint(exact[:, number] - before[:, number] / size)
            low, high = (limit if isinstance(limit, int) else limit[:, number] for limit in (least, most))
            np.minimum(np.maximum(rounded, low, out=rounded), high, out=rounded)
            errors[:, number] = (rounded - exact[:, number]) * size
        before[:, stop:] += upper[:, stop:, start:stop] @ errors[:, start:stop]
    integers = np.empty(rows.shape)
    rounded = np.rint(exact + (errors if sizes is None else errors / sizes))
    for block, places, values in zip(integers, order, rounded, strict=True):
        block[:, places] = values.T
    return integers


def _pad_inputs(part: NDArray[np.floating], width: int) -> Float:
    """Pad the last axis with zeros to `width`, in float64."""
    padded = np.zeros((*part.shape[:-1], width))
    padded[..., : part.shape[-1]] = part
    return padded
