"""The norms of com.microsoft, written with ONNX operations. ONNX Runtime has kernels of these norms only for GPUs."""

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.cuda.channels_last import FIRST, LAST
from fewstep.graph.graph import Graph, Node


def expand_contrib_norms(graph: Graph) -> Graph:
    """Replace each GroupNorm by ONNX's InstanceNormalization over its groups. It computes in float32, as the kernel
    does, and rounds the result to the type of its input."""
    new, nodes = NewNodes(graph), list[Node]()
    for node in graph.nodes:
        nodes += _expand(node, graph, new) if node.op in ("GroupNorm", "SkipGroupNorm") else [node]
    return graph.with_nodes(nodes, new.constants)


def _expand(node: Node, graph: Graph, new: NewNodes) -> list[Node]:
    (x, gamma, beta, *added), groups, nodes = node.inputs, node.attributes["groups"], list[Node]()
    assert bool(added) == (node.op == "SkipGroupNorm")
    assert node.domain == "com.microsoft" and node.attributes["channels_last"] == 1
    assert graph.constants[gamma].dtype == graph.constants[beta].dtype == np.float32

    def add(op: str, *inputs: str, **attributes: object) -> str:
        nodes.append(Node(op, inputs, (new.name(f"{node.output}_{op}"),), attributes))
        return nodes[-1].output

    exact = add("Cast", x, to=1)
    for each in added:  # the skip, then the bias of channels
        exact = add("Add", exact, add("Cast", each, to=1))
    if len(node.outputs) > 1:
        nodes.append(Node("CastLike", (exact, x), node.outputs[1:]))
    first = exact = add("Transpose", exact, **FIRST)
    ones, zeros = (new.constant(f"{value}_{groups}", np.full(groups, value, np.float32)) for value in (1, 0))
    apart = add("Reshape", exact, new.constant(f"groups_{groups}", np.array([0, groups, -1])))
    normal = add("InstanceNormalization", apart, ones, zeros, epsilon=node.attributes["epsilon"])
    last = add("Transpose", add("Reshape", normal, add("Shape", first)), **LAST)
    value = add("Add", add("Mul", last, gamma), beta)
    if node.attributes["activation"]:
        value = add("Mul", value, add("Sigmoid", value))
    nodes.append(Node("CastLike", (value, x), node.outputs[:1]))
    return nodes
