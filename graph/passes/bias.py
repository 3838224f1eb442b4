"""Separate the bias of each convolution into an Add."""

from dataclasses import replace

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node


def separate_bias(graph: Graph) -> Graph:
    """Write the constant bias of each Conv as an Add after it.

        Conv(x, W, b)      ==>      Conv(x, W) + b[:, None, None]

    An int8 convolution rounds its output to 8 bits. With a separate bias, the rounded output and its measured range do
    not include the bias, which stays float. An int32 bias would have to change with the scales of each range group.
    Engines fuse the two again if both are float.
    """
    new = NewNodes(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        is_biased = node.op == "Conv" and not node.domain and len(node.inputs) > 2
        weight, bias = (graph.constants.get(name) for name in node.inputs[1:3]) if is_biased else (None, None)
        if weight is None or bias is None:
            nodes.append(node)
            continue
        product = new.name(f"{node.output}_product")
        shifts = np.ascontiguousarray(bias.reshape(1, -1, *[1] * (weight.ndim - 2)))
        term = new.constant(f"{node.output}_bias", shifts)
        nodes.append(replace(node, inputs=node.inputs[:2], outputs=(product,)))
        nodes.append(Node("Add", (product, term), node.outputs, name=f"{node.name or node.output}_bias"))
    return graph.with_nodes(nodes, new.constants)
