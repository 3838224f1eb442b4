"""The error of an operation's output that is caused by rounding its activation and its weights, estimated from the
weights."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.files.weights import release_array
from fewstep.graph.graph import Graph
from fewstep.graph.selection import WeightedOp, select_int8_ops
from fewstep.graph.weight_quantization import LARGEST_WEIGHT

UNIFORM = 1 / 12  # mean square of an error that is uniform over one step

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Reader:
    """An operation that multiplies an activation by a constant weight; a convolution has one `Reader` per group.

    channels: the channels that it reads. squares: for each channel, the sum of squares of the weights that read it,
    [channels]. largest: maximum magnitude of the weights between each output and each channel, [outputs, channels].
    taps: number of weights between the two.
    """

    channels: slice
    squares: Float
    largest: NDArray[np.float32]
    taps: int

    def error(self, factors: Float, steps: Float, power: Float) -> Float:
        """Return the mean square of the output's error relative to that of the output, [groups], if the activation is
        divided by `factors` [channels] and rounded in `steps` [groups], and the weight is multiplied by the factors.

        `power` is the mean square of each channel, [groups, channels]. All errors are taken as independent, also those
        of weights: each is one of many in a sum.
        """
        divisors, squares = factors[self.channels], power[:, self.channels]
        rounded = np.square(steps) * (np.square(divisors) @ self.squares)
        scales = (self.largest * divisors).max(axis=1) / LARGEST_WEIGHT  # scales of the weights, [outputs]
        weights = float(np.square(scales).sum()) * self.taps * (squares @ (1 / np.square(divisors)))
        least = np.finfo(np.float64).tiny
        error: Float = UNIFORM * (rounded + weights) / np.maximum(squares @ self.squares, least)
        return error


def find_readers(graph: Graph) -> Callable[[str], tuple[Reader, ...]]:
    """Return a function that maps a tensor name to the int8 operations of the prepared graph that read the tensor."""
    ops: dict[str, list[WeightedOp]] = {}
    for op in select_int8_ops(graph):
        ops.setdefault(op.x, []).append(op)
    return lambda tensor: _make_readers(graph, ops.get(tensor, ()))


def _make_readers(graph: Graph, ops: Sequence[WeightedOp]) -> tuple[Reader, ...]:
    readers = []
    for op in ops:
        rows = np.moveaxis(graph.constants[op.weight], op.axis, 0)  # [outputs, channels of a group, ...]
        rows = rows.reshape(*rows.shape[:2], -1)
        outputs, channels = len(rows) // op.groups, rows.shape[1]
        for group in range(op.groups):
            part = rows[group * outputs : (group + 1) * outputs]
            squares = np.square(part, dtype=np.float64).sum(axis=(0, 2))
            read = slice(group * channels, (group + 1) * channels)
            readers.append(Reader(read, squares, _largest_magnitude(part), part.shape[2]))
        release_array(graph.constants[op.weight])
    return tuple(readers)


def _largest_magnitude(part: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the maximum magnitude along the last axis. The axis is short, and numpy's maximum along a short axis is
    several times slower than this loop."""
    largest = np.abs(part[..., 0])
    for tap in range(1, part.shape[-1]):
        np.maximum(largest, np.abs(part[..., tap]), out=largest)
    return largest
