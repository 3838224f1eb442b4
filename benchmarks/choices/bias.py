"""Bias correction: what int8 adds to the mean of a layer's output, channel by channel, taken off behind the layer.

Rounding a weight once shifts every product it takes part in: behind a SiLU, whose mean is not zero, that is a constant
error per channel, and clipping adds to it (Nagel et al. 2019, arXiv 1906.04721, section 4.2). The means differ from
step to step, so there is one correction for each lambda group. A bias is a float addition behind its layer already: the
correction is added to that constant, or gathered by group in its place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import GROUP, Array, Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.selection import WeightedOp
from fewstep.lowering.scheme import Target

Corrections = Mapping[str, NDArray[np.float64]]  # by operation [groups, channels]: what to add to its output


def with_sums(target: Target) -> Target:
    """The target without rewrites of what is lowered, which join the sums that take corrections with their products."""
    return replace(target, finish=())


def correct(graph: Graph, ops: Sequence[WeightedOp], corrections: Corrections) -> Graph:
    """The lowered graph with corrections in the biases behind its operations.

        Add(layer, bias)      ==>      Add(layer, Gather(bias + corrections, group))

    Where the graph has no input "group", the mean of the groups is added to the constant. Products that are summed
    before a bias comes share it. An operation without a bias behind it keeps its error.
    """
    idx = index(graph)
    has_groups = any(value.name == GROUP for value in graph.inputs)
    tables: dict[str, Array] = {}  # [groups, ...], by the Add that takes it
    for op in (op for op in ops if op.name in corrections):
        value = corrections[op.name] if has_groups else corrections[op.name].mean(axis=0, keepdims=True)
        place = _bias_behind(op, value.shape[1], idx)
        if place is None:
            continue
        add, bias = place
        constant = graph.constants[bias].astype(np.float64)
        inner = constant.shape[1:] if constant.ndim > 1 else constant.shape
        tables[add.output] = tables.get(add.output, constant) + value.reshape(len(value), *inner)
    nodes: list[Node] = []
    constants: dict[str, Array] = {}
    for node in graph.nodes:
        if node.output not in tables:
            nodes.append(node)
            continue
        (bias,) = (name for name in node.inputs if graph.is_constant(name))
        name = f"corrected({node.output})"
        table = tables[node.output].astype(graph.constants[bias].dtype)
        if len(table) > 1:
            constants[f"{name}s"] = table
            nodes.append(Node("Gather", (f"{name}s", GROUP), (name,), {"axis": 0}))  # [1, ...]
        else:
            constants[name] = table
        nodes.append(replace(node, inputs=tuple(name if each == bias else each for each in node.inputs)))
    return graph.with_nodes(nodes, constants)


def _bias_behind(op: WeightedOp, channels: int, idx: Index) -> tuple[Node, str] | None:
    """The addition of a constant per channel that the operation's output goes to and nothing else does, and the name of
    that constant; other additions may lie between."""
    name = op.name
    while idx.is_inner(name) and idx.consumers[name][0].op == "Add":
        (reader,) = idx.consumers[name]
        for bias in reader.inputs:
            if idx.graph.is_constant(bias):
                shape = idx.graph.constants[bias].shape
                along = shape[op.channel_axis] if len(shape) > 1 or op.channel_axis < 0 else 0
                return (reader, bias) if along == idx.graph.constants[bias].size == channels else None
        name = reader.output
    return None
