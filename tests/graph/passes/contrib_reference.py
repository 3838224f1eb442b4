"""The GroupNorm of com.microsoft by its definition, since ONNX Runtime has a kernel for it on GPUs only."""

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.passes.channels_last import FIRST, LAST


def expand_contrib_norms(graph: Graph) -> Graph:
    """Replace each GroupNorm by ONNX's InstanceNormalization over its groups: in float32, as the kernel computes, and
    rounded to `half` after it."""
    new, nodes = NewNodes(graph), list[Node]()
    for node in graph.nodes:
        nodes += _expand(node, graph, new) if node.op == "GroupNorm" else [node]
    return graph.with_nodes(nodes, new.constants)


def _expand(node: Node, graph: Graph, new: NewNodes) -> list[Node]:
    (x, gamma, beta), groups, nodes = node.inputs, node.attributes["groups"], list[Node]()
    assert node.domain == "com.microsoft" and node.attributes["channels_last"] == 1
    assert graph.constants[gamma].dtype == graph.constants[beta].dtype == np.float32

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(Node(op, inputs, (new.name(f"{node.output}_{op}"),), attributes))
        return nodes[-1].output

    first = add("Transpose", x, **FIRST)
    exact = add("Cast", first, to=1)
    ones, zeros = (new.constant(f"{value}_{groups}", np.full(groups, value, np.float32)) for value in (1, 0))
    apart = add("Reshape", exact, new.constant(f"groups_{groups}", np.array([0, groups, -1])))
    normal = add("InstanceNormalization", apart, ones, zeros, epsilon=node.attributes["epsilon"])
    last = add("Transpose", add("Reshape", normal, add("Shape", first)), **LAST)
    value = add("Add", add("Mul", last, gamma), beta)
    if node.attributes["activation"]:
        value = add("Mul", value, add("Sigmoid", value))
    nodes.append(Node("CastLike", (value, x), node.outputs))
    return nodes
