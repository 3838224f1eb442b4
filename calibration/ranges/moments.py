"""Second moments of the inputs of weighted operations: the sums of x x^T that error-minimizing rounding (GPTQ) needs.

Weights are shared by all steps of a plan, so moments are pooled over the plan. Moments of a whole layer would have
(input channels x taps)^2 numbers, 0.5 GB at 1280 channels of 3 x 3. So they are split into blocks of a few input
channels. With blocks of 256 inputs (each is one tap of a channel), samples are as close to float32 as with whole layers
(lab/trials.md).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import Array, Graph
from fewstep.graph.selection import WeightedOp
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import Arrays, LoadedGraph

WIDTH = 256  # maximum number of inputs of a block; the taps of a channel stay together
MOST_BYTES = 2**25  # bytes of all moments, or a sixteenth of the weights if more; beyond it, blocks are narrower

Moments = Mapping[str, NDArray[np.float32]]  # by `WeightedOp.code`, sums [blocks, width, width]


@dataclass(frozen=True)
class InputBlocks:
    """The inputs of a weight, split into blocks: `spans` of at most `width` inputs. An input is a tap of a channel.

    groups: number of groups of a convolution; 1 for a matrix product.
    outputs: number of outputs of one group of a convolution.
    inputs: number of inputs of all groups.
    taps: number of taps of a channel.
    """

    spans: tuple[slice, ...]
    width: int
    outputs: int
    inputs: int
    taps: int
    groups: int

    def place(self, span: slice, outputs: slice) -> tuple[slice, slice]:
        """Return two slices for a span of inputs of a grouped operation. The first selects, among all outputs, the
        outputs that `outputs` selects within the span's group. The second selects the span among the inputs of its
        group."""
        group, start = divmod(span.start, self.inputs // self.groups)
        first = group * self.outputs
        return slice(first + outputs.start, first + outputs.stop), slice(start, start + span.stop - span.start)


def split_inputs(op: WeightedOp, shape: Sequence[int], width: int) -> InputBlocks:
    """Return the blocks of a weight of this shape. A block has at most `width` inputs, or the taps of one channel if
    these are more."""
    groups, taps = op.groups, prod(shape[2:])
    parts = -(-op.channels_in // max(1, width // taps))
    channels = -(-op.channels_in // parts)
    spans = tuple(
        slice((group * op.channels_in + first) * taps, (group * op.channels_in + last) * taps)
        for group in range(groups)
        for first in range(0, op.channels_in, channels)
        for last in (min(first + channels, op.channels_in),)
    )
    return InputBlocks(spans, channels * taps, op.channels_out, groups * op.channels_in * taps, taps, groups)


def block_width(ops: Sequence[WeightedOp], prepared: Graph) -> int:
    """Return the inputs per block for which the moments of all operations take about `MOST_BYTES` or less."""
    weights = sum({op.code: prepared.constants[op.weight].nbytes for op in ops}.values())
    return max(1, min(WIDTH, max(MOST_BYTES, weights // 16) // (4 * _count_inputs(ops, prepared))))


def moment_bytes(ops: Sequence[WeightedOp], prepared: Graph) -> int:
    """Return an upper bound on the bytes of the moments of all operations."""
    return 4 * _count_inputs(ops, prepared) * block_width(ops, prepared)


def _count_inputs(ops: Sequence[WeightedOp], prepared: Graph) -> int:
    """Count the inputs of all weights."""
    return sum({op.code: split_inputs(op, prepared.constants[op.weight].shape, 1).inputs for op in ops}.values())


class MomentSums:
    """Runs the float network row by row. Each call adds the second moments of the operations' inputs to `sums`, by
    `WeightedOp.code`.

    Args:
        network: the graph, opened by `open_observed` so that it also returns the tensors that the operations read.
        parts: the operations, in parts. The moments of one part do not depend on the other parts.
        positions: the number of positions drawn from a row if a layer has more; positions are statistically alike.
        seed: the seed of the drawn positions, which then depend only on a row's index in the run.
    """

    def __init__(
        self, network: LoadedGraph, prepared: Graph, parts: Sequence[Sequence[WeightedOp]], positions: int, seed: int
    ) -> None:
        self._network, self._prepared = network, prepared
        self._positions = positions
        self._ops = []
        for number, ops in enumerate(parts):
            rng, width = np.random.default_rng((seed, number) if number else seed), block_width(ops, prepared)
            shapes = [prepared.constants[op.weight].shape for op in ops]
            self._ops += [
                (op, shape, split_inputs(op, shape, width), rng) for op, shape in zip(ops, shapes, strict=True)
            ]
        self.sums = {
            op.code: np.zeros((len(blocks.spans), blocks.width, blocks.width), np.float32)
            for op, _, blocks, _ in self._ops
        }

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        return run_row_by_row(self._run_row, self._prepared.inputs)(feeds)

    def _run_row(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        tensors = self._network(feeds)
        for op, shape, blocks, rng in self._ops:
            x = feeds[op.x] if op.x in feeds else tensors[op.x]
            patches = draw_patches(op, x, shape[2:] if op.node.op == "Conv" else (), rng, self._positions)
            for sums, span in zip(self.sums[op.code], blocks.spans, strict=True):
                part, size = patches[:, span], span.stop - span.start
                sums[:size, :size] += part.T @ part
        return {value.name: tensors[value.name] for value in self._prepared.outputs}


def draw_patches(
    op: WeightedOp, x: Array, kernel: Sequence[int], rng: np.random.Generator, count: int
) -> NDArray[np.float32]:
    """Return the inputs with which the weights are multiplied at `count` random positions, or at all positions if there
    are no more: [positions, inputs * taps], in the order of the weight's axes after the first. For a grouped
    convolution, they are the inputs of all groups."""
    if op.node.op != "Conv":
        rows: NDArray[np.float32] = x.reshape(-1, x.shape[-1])
        return rows if len(rows) <= count else rows[rng.choice(len(rows), count, replace=False)]
    windows = _windows(op, x, kernel)  # [B, C, *positions, *kernel], a view
    places = (windows.shape[0], *windows.shape[2 : 2 + len(kernel)])
    total = prod(places)
    drawn = np.arange(total) if total <= count else rng.choice(total, count, replace=False)
    batch, *spatial = np.unravel_index(drawn, places)
    picked: NDArray[np.float32] = np.moveaxis(windows, 1, -1 - len(kernel))[(batch, *spatial)]
    return picked.reshape(len(picked), prod(picked.shape[1:]))  # may be empty: a layer without routed rows


def _windows(op: WeightedOp, x: Array, kernel: Sequence[int]) -> NDArray[np.float32]:
    attributes, rank = op.node.attributes, len(kernel)
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    if attributes.get("auto_pad", b"").startswith(b"SAME"):  # with a stride the true pads may be shifted by one
        pads = [*((size - 1) // 2 for size in reach), *(size // 2 for size in reach)]
    else:
        pads = attributes.get("pads", [0] * 2 * rank)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    every = [slice(None, None, step) for step in strides]
    taps = [slice(None, None, step) for step in dilations]
    return windows[(slice(None), slice(None), *every, *taps)]
