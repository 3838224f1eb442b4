"""What second-order rounding needs of a layer: the second moments of what its weights multiply, H = mean of x x^T.

The squared error of a layer's output is tr((Q - W) H (Q - W)^T), summed over its outputs (GPTQ: Frantar et al. 2022,
arXiv 2210.17323). Weights are shared by all steps, so H is pooled over the plan.
"""

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.count import batch_of
from fewstep.calibration.task import Task
from fewstep.graph.graph import Array
from fewstep.graph.selection import WeightedOp
from fewstep.ranges.observe import open_watched
from fewstep.runtime.progress import SILENT, Progress

POSITIONS = 1024  # of one evaluation of a layer: pixels are alike, and steps and samples are many
Hessians = Mapping[str, NDArray[np.float64]]  # by operation [inputs * taps, inputs * taps]


def layer_hessians(task: Task, ops: Sequence[WeightedOp], progress: Progress = SILENT) -> Hessians:
    """H of each operation along the plan, streamed. Memory: the matrices, 8 bytes an element, and one evaluation.

    Grouped convolutions are left out: they would have a matrix for each group.
    """
    plain = [op for op in ops if op.node.attributes.get("group", 1) == 1]
    sides = {op.name: op.channels_in * prod(_kernel(op, task)) for op in plain}
    sums = {name: np.zeros((side, side)) for name, side in sides.items()}
    rows = dict.fromkeys(sums, 0)
    names = tuple(dict.fromkeys(op.x for op in plain))
    watched = open_watched(task.prepared, names)
    for evaluation in task.evaluations(watched, progress, batch_of(task, names)):
        held = {**evaluation.feeds, **evaluation.tensors}
        rng = np.random.default_rng([evaluation.seeds[0], evaluation.state.index])
        for op in plain:
            patches = drawn_patches(op, held[op.x], _kernel(op, task), rng)
            sums[op.name] += patches.T @ patches
            rows[op.name] += len(patches)
    return {name: total / rows[name] for name, total in sums.items()}


def drawn_patches(
    op: WeightedOp, x: Array, kernel: Sequence[int], rng: np.random.Generator, count: int = POSITIONS
) -> NDArray[np.float32]:
    """What the weights multiply at `count` positions drawn at random, or at all if there are no more: [positions,
    inputs * taps], in the order of the weight's axes behind the first."""
    if op.node.op != "Conv":
        rows: NDArray[np.float32] = x.reshape(-1, x.shape[-1])
        return rows if len(rows) <= count else rows[rng.choice(len(rows), count, replace=False)]
    windows = _windows(op, x, kernel)  # [B, C, *positions, *kernel], a view
    places = (windows.shape[0], *windows.shape[2 : 2 + len(kernel)])
    total = prod(places)
    drawn = np.arange(total) if total <= count else rng.choice(total, count, replace=False)
    batch, *spatial = np.unravel_index(drawn, places)
    picked: NDArray[np.float32] = np.moveaxis(windows, 1, -1 - len(kernel))[
        (batch, *spatial)
    ]  # [positions, C, *kernel]
    return picked.reshape(len(picked), -1)


def as_rows(op: WeightedOp, weight: Array) -> NDArray[np.float64]:
    """The weight [outputs, inputs * taps], in the order of patches."""
    rows: NDArray[np.float64] = np.moveaxis(weight, op.axis, 0).reshape(weight.shape[op.axis], -1).astype(np.float64)
    return rows


def _windows(op: WeightedOp, x: Array, kernel: Sequence[int]) -> NDArray[np.float32]:
    attributes, rank = op.node.attributes, len(kernel)
    pads = attributes.get("pads", [0] * 2 * rank)
    strides, dilations = attributes.get("strides", [1] * rank), attributes.get("dilations", [1] * rank)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)])
    reach = [(size - 1) * step + 1 for size, step in zip(kernel, dilations, strict=True)]
    windows = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=tuple(range(2, 2 + rank)))
    every = [slice(None, None, step) for step in strides]
    taps = [slice(None, None, step) for step in dilations]
    return windows[(slice(None), slice(None), *every, *taps)]


def _kernel(op: WeightedOp, task: Task) -> tuple[int, ...]:
    return task.prepared.constants[op.weight].shape[2:] if op.node.op == "Conv" else ()
