"""Weights whose rounding errors cancel in the output of a layer: each input's error is compensated by later inputs
(GPTQ: Frantar, Ashkboos, Hoefler, Alistarh 2022, arXiv 2210.17323).

The squared error of a layer's output is tr(E H E^T), with E the errors of its weights [outputs, inputs] and H the
second moments of its inputs. With H = R R^T and R upper triangular it is the sum over inputs j, and over outputs, of

    (R[j, j] E[:, j] + sum over i < j of R[i, j] E[:, i])^2

so the best real value of a weight follows from the errors of the inputs before it. This is GPTQ without the inverse
of H (QuIP: Chee, Cai, Kuleshov, De Sa 2023, arXiv 2307.13304, theorem 6). Damping and the order of the inputs are as in
the authors' code with `act_order`. H is split into blocks of a few inputs (`calibration/ranges/moments.py`).
"""

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.ranges.moments import split_inputs
from fewstep.graph.selection import WeightedOp
from fewstep.graph.weight_quantization import QuantizedWeight

DAMPING = 0.01  # share of the mean second moment that is added to the diagonal, so that H is positive definite
AT_ONCE = 1 << 15  # weights that are rounded at once; each takes some 60 bytes meanwhile

Float = NDArray[np.float64]


def correct_rounding(
    nearest: QuantizedWeight,
    weight: NDArray[np.float32],
    op: WeightedOp,
    moments: NDArray[np.float32],
    multipliers: Float | None,
    largest: int,
) -> QuantizedWeight:
    """Return the weight with the scales of `nearest`, and with the integers in [-largest, largest] that cause the least
    output error according to the moments.

    Args:
        weight: the weight of the operation in its own axes, divided by the multipliers.
        moments: second moments of the operation's input before the multipliers, [blocks, width, width] as in
            `calibration/ranges/moments.py`.
        multipliers: [channels], the multipliers of the input; None if the graph does not multiply it.
    """
    blocks = split_inputs(op, weight.shape, moments.shape[-1])
    rows = np.moveaxis(weight, op.axis, 0).reshape(weight.shape[op.axis], -1)  # [outputs, inputs of a group]
    integers = np.empty(rows.shape, np.int8)
    factors = np.ones(blocks.inputs) if multipliers is None else multipliers.repeat(blocks.taps)  # factor of each input
    at_once = max(1, AT_ONCE // (blocks.outputs * blocks.width))
    at_most = max(1, AT_ONCE // blocks.width)  # outputs
    for start in range(0, len(blocks.spans), at_once):
        spans = blocks.spans[start : start + at_once]
        scaled = np.stack([_pad_inputs(factors[each], blocks.width) for each in spans])
        part = moments[start : start + at_once] * (scaled[:, :, None] * scaled[:, None, :])
        for first in range(0, blocks.outputs, at_most):
            places = [blocks.place(each, slice(first, min(first + at_most, blocks.outputs))) for each in spans]
            wanted = np.stack([_pad_inputs(rows[place], blocks.width) for place in places])
            scales = np.stack([nearest.scales[outputs].astype(np.float64) for outputs, _ in places])
            for (outputs, inputs), block in zip(places, round_gptq(wanted, scales, part, largest), strict=True):
                integers[outputs, inputs] = block[:, : inputs.stop - inputs.start]
    shape = (weight.shape[op.axis], *np.delete(weight.shape, op.axis))
    values = np.moveaxis(integers.reshape(shape), 0, op.axis)
    return replace(nearest, values=np.ascontiguousarray(values))


def round_gptq(rows: Float, scales: Float, moments: Float, largest: int) -> Float:
    """Round weights by GPTQ. Return integers in [-largest, largest] such that `rows` [blocks, outputs, inputs] is about
    integers * scales [blocks, outputs].

    moments: second moments of the inputs, [blocks, inputs, inputs]. Inputs are rounded in decreasing order of their
        second moments. A block whose inputs were always zero, or whose moments overflow, is rounded to the nearest
        integers.
    """
    mean = np.diagonal(moments, axis1=1, axis2=2).mean(axis=1)
    is_seen = np.isfinite(mean) & (mean > 0)
    moments = np.where(is_seen[:, None, None], moments, 0.0)
    order = np.argsort(-np.diagonal(moments, axis1=1, axis2=2), axis=1, kind="stable")
    back = order[:, ::-1]
    turned = np.take_along_axis(np.take_along_axis(moments, back[:, :, None], 1), back[:, None, :], 2)
    turned += np.where(is_seen, DAMPING * mean, 1.0)[:, None, None] * np.eye(turned.shape[-1])
    factor = np.linalg.cholesky(turned)[:, ::-1, ::-1]  # R: Cholesky factor of H in reverse order, reversed back
    factor = factor / np.diagonal(factor, axis1=1, axis2=2)[:, None, :]
    exact = np.take_along_axis(rows / scales[:, :, None], order[:, None, :], 2)
    errors = np.zeros(exact.shape)
    for number in range(exact.shape[-1]):
        before = errors[:, :, :number] @ factor[:, :number, number, None]
        rounded = np.clip(np.rint(exact[:, :, number] - before[:, :, 0]), -largest, largest)
        errors[:, :, number] = rounded - exact[:, :, number]
    integers = np.empty(exact.shape)
    np.put_along_axis(integers, order[:, None, :], np.rint(exact + errors), 2)
    return integers


def _pad_inputs(part: NDArray[np.floating], width: int) -> Float:
    """Pad the last axis with zeros to `width`, in float64."""
    padded = np.zeros((*part.shape[:-1], width))
    padded[..., : part.shape[-1]] = part
    return padded
