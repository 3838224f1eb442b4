"""Rounding errors of a weight that nearly cancel. Their sum over an output channel is at most half a step, and over
most kernels; nearest integers leave more. The channel comes last, and moves the sums of some kernels again.

Rounding a weight shifts all that it multiplies. Behind a SiLU activations have one sign. An output channel whose
rounding errors have a sum is then shifted everywhere, at every step of a plan. The integers nearest to the other side
are taken, as few as bring the sum down (SQuant, Guo et al. 2022, arXiv 2202.07471). Nothing is measured for it.
Channels of an activation have unlike means, so it does not always help: samples decide.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.lowering.weights import QuantizedWeight

BLOCK = 1 << 16  # weights at once; each holds some 100 bytes while it is moved

Float = NDArray[np.float64]


def balanced(rounded: QuantizedWeight, weight: NDArray[np.float32], largest: int) -> QuantizedWeight:
    """The weight with its scales kept, and some integers moved by one, within [-largest, largest]."""
    values, rows = np.moveaxis(rounded.values, rounded.axis, 0), np.moveaxis(weight, rounded.axis, 0)  # [outputs, ...]
    moved = np.empty(values.shape, np.int8)
    at_once = max(1, BLOCK // max(1, values[0].size))
    for start in range(0, len(values), at_once):
        part = slice(start, start + at_once)
        scales = rounded.scales[part].astype(np.float64)
        moved[part] = _balanced(values[part].astype(np.float64), rows[part], scales, largest)
    return replace(rounded, values=np.ascontiguousarray(np.moveaxis(moved, 0, rounded.axis)))


def _balanced(values: Float, weight: NDArray[np.float32], scales: Float, largest: int) -> Float:
    errors = values - weight / scales.reshape(-1, *[1] * (values.ndim - 1))
    if values.ndim > 2:  # [outputs, inputs, *kernel]
        kernels = (values.shape[0] * values.shape[1], -1)
        values, errors = (
            each.reshape(errors.shape) for each in _moved(values.reshape(kernels), errors.reshape(kernels), largest)
        )
    rows = (len(values), -1)
    moved, _ = _moved(values.reshape(rows), errors.reshape(rows), largest)
    return moved.reshape(values.shape)


def _moved(values: Float, errors: Float, largest: int) -> tuple[Float, Float]:
    """Integers [rows, n] and their errors, with those moved by one that have the largest errors of the sum's sign."""
    excess = np.rint(errors.sum(axis=1))
    moves = np.zeros(values.shape)
    for rows, count in _alike(np.abs(excess)):
        sign = np.sign(excess[rows])[:, None]
        worth = np.where(np.abs(values[rows] - sign) <= largest, errors[rows] * sign, -np.inf)
        chosen = _most(worth, count)
        is_wanted = np.arange(chosen.shape[1]) < np.abs(excess[rows])[:, None]
        is_moved = is_wanted & (np.take_along_axis(worth, chosen, axis=1) > 0)
        moves[rows[:, None], chosen] = sign * is_moved
    return values - moves, errors - moves


def _alike(counts: Float) -> Iterator[tuple[NDArray[np.intp], int]]:
    """The rows with one move, which most have that have any, and those with more; the most that one of them has."""
    for rows in (np.flatnonzero(counts == 1), np.flatnonzero(counts > 1)):
        if len(rows):
            yield rows, int(counts[rows].max())


def _most(worth: Float, count: int) -> NDArray[np.intp]:
    """The places [rows, count] of the greatest numbers of each row [rows, n], the greatest first. The first of equal
    numbers wins.

    Numbers below the last one are not put in order: sorting whole rows takes three times as long.
    """
    if count == 1:
        greatest: NDArray[np.intp] = np.argmax(worth, axis=1)[:, None]
        return greatest
    if 0 < count < worth.shape[1] // 2:
        last = np.partition(worth, -count, axis=1)[:, -count, None]
        is_among = worth >= last
        if np.count_nonzero(is_among) == count * len(worth):  # no other number is equal to the last one
            places = np.nonzero(is_among)[1].reshape(len(worth), count)
            order = np.argsort(-np.take_along_axis(worth, places, axis=1), axis=1, kind="stable")
            return np.take_along_axis(places, order, axis=1)
    return np.argsort(-worth, axis=1, kind="stable")[:, :count]
