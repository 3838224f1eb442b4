"""Join biases to convolutions, where other tools expect them."""

from collections import Counter
from dataclasses import replace

import numpy as np

from fewstep.graph.graph import Graph, Node


def join_bias(graph: Graph) -> Graph:
    """Invert `separate_bias` of exported networks, since tools round, and correct, a product together with its bias.

        Conv(x, W) + b[:, None, None]      ==>      Conv(x, W, b)

    The convolution keeps its node's name and returns the output of the Add. Computed biases stay where they are.
    """
    readers = Counter(name for node in graph.nodes for name in node.inputs)
    made = {value.name for value in graph.outputs}
    adds = {name: node for node in graph.nodes if node.op == "Add" and not node.domain for name in node.inputs}
    constants, gone = dict(graph.constants), set()
    nodes: list[Node] = []
    for node in graph.nodes:
        add = adds.get(node.output)
        is_bare = node.op == "Conv" and not node.domain and len(node.inputs) == 2
        if add is not None and is_bare and readers[node.output] == 1 and node.output not in made:
            term = next(name for name in add.inputs if name != node.output)
            weight, bias = graph.constants.get(node.inputs[1]), graph.constants.get(term)
            if weight is not None and bias is not None and bias.shape == (1, len(weight), *[1] * (weight.ndim - 2)):
                name = f"{node.output}_bias_vector"
                constants[name] = np.ascontiguousarray(bias.reshape(-1))
                if readers[term] == 1:
                    del constants[term]
                gone.add(add.output)
                node = replace(node, inputs=(*node.inputs, name), outputs=add.outputs)
        nodes.append(node)
    kept = tuple(node for node in nodes if not (node.op == "Add" and node.output in gone))
    return replace(graph, constants=constants, nodes=kept)
