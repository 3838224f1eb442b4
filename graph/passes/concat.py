"""Split weighted operations that read a Concat, so that each source of the Concat may have its own range."""

from dataclasses import replace
from itertools import accumulate, pairwise

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types, infer_types


def split_concat(graph: Graph) -> Graph:
    """Split a weighted operation that reads a Concat into one operation per source; float Adds sum their results.

        Conv(Concat(a, b), W, bias)    ==>      Conv(a, W[:, :Ca], bias) + Conv(b, W[:, Ca:])
        MatMul(Concat(a, b), W)        ==>      MatMul(a, W[:Ca]) + MatMul(b, W[Ca:])

    Without the split, sources with different ranges share one scale, or the operation stays float. The pass splits only
    a Concat that the operation reads directly. After a normalization both sources have the same range, and the Add
    would gain nothing.
    """
    idx, types, new = index(graph), infer_types(graph), NewNodes(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        found = match(node, "(Conv | MatMul)(Concat(), WEIGHT)", idx)
        parts = None if found is None else _parts(node, found.nodes[1], graph, types)
        if found is None or parts is None:
            nodes.append(node)
            continue
        total = ""
        for number, (source, weight) in enumerate(zip(found.nodes[1].inputs, parts, strict=True)):
            last = number == len(parts) - 1
            weights = new.constant(f"{node.inputs[1]}_{number}", weight)
            inputs = (source, weights, *(node.inputs[2:] if number == 0 else ()))
            part = new.name(f"{node.output}_{number}")
            nodes.append(replace(node, inputs=inputs, outputs=(part,), name=f"{node.name or node.output}_{number}"))
            if number:
                result = node.output if last else new.name(f"{node.output}_sum_{number}")
                nodes.append(Node("Add", (total, part), (result,), name=f"{node.name or node.output}_sum_{number}"))
                part = result
            total = part
    return graph.with_nodes(nodes, new.constants)


def _parts(node: Node, concat: Node, graph: Graph, types: Types) -> list[Array] | None:
    """Return the weight of each source of the Concat, or None if the operation cannot be split."""
    weight = graph.constants[node.inputs[1]]
    shapes = [types.shape(name) for name in concat.inputs]
    rank = types.rank(concat.output)
    if rank is None or any(shape is None for shape in shapes) or len(shapes) < 2:
        return None
    axis = concat.attributes["axis"] % rank
    if node.op == "Conv":
        if axis != 1 or node.attributes.get("group", 1) != 1:
            return None
    elif axis != rank - 1 or weight.ndim != 2:
        return None
    sizes = [shape[axis] for shape in shapes if shape is not None]
    if any(isinstance(size, str) for size in sizes):
        return None
    edges = accumulate((int(size) for size in sizes), initial=0)
    parts = [slice(start, end) for start, end in pairwise(edges)]
    # views, since weights may be gigabytes: np.split would make float32 numbers of those in 16 bits
    return [weight[:, part] if node.op == "Conv" else weight[part] for part in parts]
