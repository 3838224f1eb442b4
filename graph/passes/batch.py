"""Make a fixed batch dynamic."""

from dataclasses import replace

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.index import index
from fewstep.graph.types import infer_types


def free_batch(graph: Graph) -> Graph:
    """Make the leading axis of every input and output dynamic.

        x [1, 64, 784] -> Reshape(x, [1, 64, 28, 28])      ==>      x [batch, 64, 784] -> Reshape(x, [-1, 64, 28, 28])

    The result is correct if the batch is the leading axis of every tensor, or part of it, as in all networks that
    process samples independently. The pass cannot check that, so its caller compares the results with those of the
    original graph.
    """
    types, idx, new = infer_types(graph), index(graph), NewNodes(graph)
    moving = idx.dependents(value.name for value in graph.inputs)
    nodes: list[Node] = []
    for node in graph.nodes:
        shape = types.static(node.output) if node.op == "Reshape" and not node.domain else None
        if shape and node.inputs[0] in moving and node.inputs[1] in graph.constants and 0 not in shape:
            node = replace(node, inputs=(node.inputs[0], new.shape([-1, *shape[1:]])), attributes={})
        nodes.append(node)
    return graph.with_ports(_free_leading_axis).with_nodes(nodes, new.constants)


def _free_leading_axis(value: Value) -> Value:
    return replace(value, shape=(BATCH, *value.shape[1:])) if value.shape else value
