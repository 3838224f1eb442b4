"""Channels scaled before they are rounded, and scaled back by the weights: the graph computes the same in float.

    op(x, W)  ==>  op(x / s, s W)                    s: one number for each input channel

In front of a normalisation or between linear layers s folds into weights; behind a SiLU or a sum it stays a product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.count import batch_of
from fewstep.calibration.inputs import evaluations
from fewstep.calibration.task import Task
from fewstep.graph.graph import Graph, Node
from fewstep.graph.selection import WeightedOp
from fewstep.ranges.observe import open_watched
from fewstep.runtime.progress import SILENT, Progress

LEAST = 1e-6  # of the largest channel: one that is always zero is not scaled up without end

Factors = NDArray[np.float64]  # [channels], positive
Weights = dict[str, NDArray[np.float32]]  # by name


def rescaled_inputs(graph: Graph, ops: Sequence[WeightedOp], factors: Mapping[str, Factors]) -> Graph:
    """Every operation named in `factors` reads its input divided by them, and has them in its weights. Grouped
    convolutions, whose channels are counted per group, stay as they are."""
    scaled = {op.name: op for op in ops if op.name in factors and op.node.attributes.get("group", 1) == 1}
    nodes: list[Node] = []
    constants: Weights = {}
    for node in graph.nodes:
        if node.output not in scaled:
            nodes.append(node)
            continue
        op, factor = scaled[node.output], factors[node.output]
        x, weight, inverse = f"{op.x}_for_{op.name}", f"{op.weight}_for_{op.name}", f"{op.name}_inverse"
        axis = 1 if op.node.op == "Conv" else 1 - op.axis
        constants[weight] = graph.constants[op.weight] * along(factor, axis, graph.constants[op.weight].ndim)
        constants[inverse] = along(1 / factor, op.channel_axis, _rank(op, graph))
        nodes.append(Node("Mul", (op.x, inverse), (x,), name=x))
        nodes.append(replace(op.node, inputs=(x, weight, *op.node.inputs[2:])))
    return graph.with_nodes(nodes, constants)


def reaches(task: Task, ops: Sequence[WeightedOp], progress: Progress = SILENT) -> dict[str, Factors]:
    """By operation, the largest magnitude of each channel of its input along the plan."""
    names = tuple(dict.fromkeys(op.x for op in ops))
    largest: dict[str, Factors] = {}
    watched = open_watched(task.prepared, names)
    for evaluation in evaluations(task, watched, "deployed", progress, batch_of(task, names)):
        held = {**evaluation.feeds, **evaluation.tensors}
        for op in ops:
            magnitudes = np.abs(np.moveaxis(held[op.x], op.channel_axis, 0))
            seen = magnitudes.reshape(len(magnitudes), -1).max(axis=1).astype(np.float64)
            largest[op.name] = np.maximum(seen, largest.get(op.name, seen))
    return {name: np.maximum(reach, LEAST * reach.max()) for name, reach in largest.items()}


def smoothing(op: WeightedOp, graph: Graph, reach: Factors, strength: float = 0.5) -> Factors:
    """s = max|x|^a / max|W|^(1 - a), input channel by input channel (SmoothQuant: Xiao et al. 2022, arXiv 2211.10438,
    equation 4). With a = 1/2 both reach equally far (Nagel et al. 2019, arXiv 1906.04721)."""
    weight = _input_channels(op, graph)
    magnitude = np.abs(weight).max(axis=(1, 2))
    factors: Factors = reach**strength / np.maximum(magnitude, LEAST * magnitude.max()) ** (1 - strength)
    return factors


def dilation(op: WeightedOp, graph: Graph) -> Factors:
    """How much each input channel's weights can grow while no output channel's reach does: 1 or more (DilateQuant: Liu
    et al. 2024, arXiv 2409.14307, for symmetric weights). A channel that holds one of those extremes stays."""
    weight = _input_channels(op, graph)  # [inputs, outputs, taps]
    extent = np.abs(weight).max(axis=2)  # [inputs, outputs]
    reach = extent.max(axis=0)
    with np.errstate(divide="ignore"):
        room = np.where(extent > 0, reach / extent, np.inf).min(axis=1)
    return np.where(np.isfinite(room), room, 1.0)


def along(values: Factors, axis: int, rank: int) -> NDArray[np.float32]:
    """Values for one axis of an array of `rank` axes."""
    shape = [1] * rank
    shape[axis] = -1
    return values.astype(np.float32).reshape(shape)


def _rank(op: WeightedOp, graph: Graph) -> int:
    """Of what is multiplied per channel: that of a convolution's activation, or the one axis of features."""
    return graph.constants[op.weight].ndim if op.node.op == "Conv" else 1


def _input_channels(op: WeightedOp, graph: Graph) -> NDArray[np.float64]:
    """The weight as [inputs, outputs, taps]."""
    weight = np.moveaxis(graph.constants[op.weight], op.axis, 0).astype(np.float64)
    return np.swapaxes(weight.reshape(*weight.shape[:2], -1), 0, 1)
