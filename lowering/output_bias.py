"""A constant added to the output of a lowered body: one number for each range group, and each channel.

It stands behind all else, in float32, so that every engine has it and no operation in int8 changes. A body of one group
whose output is a sum with one number for each channel takes it into those numbers, for no operation at all.
"""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.additions import Additions
from fewstep.graph.graph import GROUP, Array, Graph, Node, rename_inputs
from fewstep.graph.index import Index, index

Float = NDArray[np.floating[Any]]
SAME_AXES = ("Add", "Sub", "Mul", "Div", "Cast", "Identity")  # of what they read; one of both inputs may be a constant


def with_output_bias(graph: Graph, bias: Float) -> Graph:
    """The graph with `bias` [groups, channels] added to its output. Several groups need its input "group".

    ValueError if the output has another number of channels, or the graph does not tell groups apart.
    """
    output, axis = graph.outputs[0], channel_axis(graph)
    if bias.shape[1] != output.shape[axis]:
        raise ValueError(f"{bias.shape[1]} numbers for an output of shape {output.shape}")
    if len(bias) > 1 and GROUP not in {value.name for value in graph.inputs}:
        raise ValueError(f"{len(bias)} groups for a graph without the input {GROUP!r}")
    axes = [-1 if each == axis else 1 for each in range(1, len(output.shape))]
    table = bias.astype(output.dtype).reshape([len(bias), *axes])
    folded = _folded(graph, table) if len(bias) == 1 else None
    return folded or _added(graph, table)


def channel_axis(graph: Graph) -> int:
    """The axis of the output, the batch counted, along which channels lie.

    It is 1 but for three axes: there a sequence may stand first, and the operation that makes the output tells. Where
    that is out of sight the shorter axis is taken.
    """
    shape = graph.outputs[0].shape
    if len(shape) != 3:
        return 1
    found = _channels_made(index(graph), graph.outputs[0].name)
    if found is not None:
        return found
    known = [axis for axis in (1, 2) if isinstance(shape[axis], int)]
    return min(known, key=lambda axis: int(shape[axis]), default=1)


def _channels_made(idx: Index, name: str) -> int | None:
    """The channel axis of a tensor [B, ., .] that a convolution or a product makes, through what keeps or swaps axes;
    None if something else is between."""
    order = [0, 1, 2]  # of the axes of `name`, as those of the output
    while (node := idx.producers.get(name)) is not None:
        if node.op in ("Conv", "MatMul", "Gemm"):
            return order.index(1 if node.op == "Conv" else 2)
        moving = [each for each in node.inputs if each and not idx.graph.is_constant(each)]
        if node.op == "Transpose":
            perm = list(node.attributes["perm"])
            order = [perm[axis] for axis in order]
        elif node.op not in SAME_AXES or len(moving) != 1:
            return None
        name = moving[0]
    return None


def _folded(graph: Graph, table: Array) -> Graph | None:
    """The bias in the constant that the output is a sum with; None if it is none of one number for each channel."""
    name = graph.outputs[0].name
    last = index(graph).producer(name, "Add")
    constants = [] if last is None else [each for each in last.inputs if graph.is_constant(each)]
    if last is None or len(constants) != 1:
        return None
    old = graph.constants[constants[0]]
    if old.dtype != table.dtype or old.size not in (1, table.size) or old.ndim > table.ndim:
        return None
    if np.broadcast_shapes(old.shape, table.shape) != table.shape:
        return None
    new = Additions(graph)
    both = new.constant(f"{constants[0]}_with_bias", (old.astype(np.float64) + table).astype(table.dtype))
    nodes = [rename_inputs(node, {constants[0]: both}) if node is last else node for node in graph.nodes]
    kept = {each: array for each, array in graph.constants.items() if each != constants[0]}
    if any(constants[0] in node.inputs for node in nodes):
        kept = dict(graph.constants)
    return replace(graph, constants=kept).with_nodes(nodes, new.constants)


def _added(graph: Graph, table: Array) -> Graph:
    """The bias as a sum of its own, of a row that the group chooses."""
    new, name = Additions(graph), graph.outputs[0].name
    before, row = new.name(f"{name}_unbiased"), new.constant("output_bias", table)
    nodes = [
        replace(
            rename_inputs(node, {name: before}),
            outputs=tuple(before if each == name else each for each in node.outputs),
        )
        for node in graph.nodes
    ]
    if len(table) > 1:
        rows, row = row, new.name("output_bias_of_group")
        nodes.append(Node("Gather", (rows, GROUP), (row,), {"axis": 0}, "output_bias_of_group"))
    nodes.append(Node("Add", (before, row), (name,), {}, "output_bias"))
    return graph.with_nodes(nodes, new.constants)
