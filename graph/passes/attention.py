"""Split and scale the queries, keys and values of attention with the fewest operations."""

from dataclasses import replace

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.pattern import match
from fewstep.graph.types import Types, infer_types


def simplify_attention(graph: Graph) -> Graph:
    """Write attention as two MatMuls around a Softmax, with only the layout operations that it needs.

        Squeeze(Slice(qkv, i : i + 1))                                ==>      Gather(qkv, i)
        Reshape(Transpose(Reshape(k, [-1, n, d]), 021), [b, h, d, n])  ==>      Transpose(k, 0132)
        MatMul(q * a, k * b)                                          ==>      MatMul(q * (a * b), k)

    In the last line, a and b are numbers; q / a and k / b are rewritten too. torch scales q and k each by the square
    root of the attention's scale.
    """
    idx, types, new = index(graph), infer_types(graph), NewNodes(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        one = _gather_slice(node, graph, idx, new) or _transpose_keys(node, idx, types) or node
        nodes.extend(_merge_scales(node, graph, idx, new) or (one,))
    return graph.with_nodes(nodes, new.constants)


def _gather_slice(squeeze: Node, graph: Graph, idx: Index, new: NewNodes) -> Node | None:
    """Return the Gather that replaces a Slice of length 1 and the Squeeze of its axis; None if the nodes do not
    match."""
    found = match(squeeze, "Squeeze(Slice(x, START, END, AXIS), SQUEEZED)", idx)
    if found is None:
        return None
    _, part = found.nodes
    numbers = [graph.constants.get(name) for name in (*part.inputs[1:], squeeze.inputs[1])]
    if any(value is None or value.size != 1 for value in numbers):
        return None
    start, end, axis, *step, squeezed = (int(value.reshape(())) for value in numbers if value is not None)
    if end != start + 1 or axis != squeezed or start < 0 or axis < 0 or step not in ([], [1]):
        return None
    name = new.constant(f"index_{start}", np.asarray(start, np.int64))
    return Node("Gather", (part.inputs[0], name), squeeze.outputs, {"axis": axis}, squeeze.name)


def _transpose_keys(reshape: Node, idx: Index, types: Types) -> Node | None:
    """Return the Transpose of the last two axes that replaces Reshape(Transpose(Reshape(keys))); None unless the two
    Reshapes only merge the leading axes and separate them again."""
    found = match(reshape, "Reshape(Transpose(Reshape(keys)))", idx)
    if found is None or list(found.nodes[1].attributes.get("perm", ())) != [0, 2, 1]:
        return None
    before, merged, after = (types.shape(name) for name in (found["keys"], found.nodes[2].output, reshape.output))
    if before is None or merged is None or after is None or len(before) < 3 or len(before) != len(after):
        return None
    if merged[1:] != before[-2:] or after[-2:] != (before[-1], before[-2]) or after[1:-2] != before[1:-2]:
        return None
    rank = len(before)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    return Node("Transpose", (found["keys"],), reshape.outputs, {"perm": perm}, reshape.name)


def _merge_scales(matmul: Node, graph: Graph, idx: Index, new: NewNodes) -> tuple[Node, ...]:
    """Return the nodes of a product whose two factors are scaled by numbers, with a single scale on the left factor.
    Empty for any other product."""
    found = match(matmul, "MatMul((Mul | Div)(q, A), (Mul | Div)(k, B))", idx)
    numbers = [] if found is None else [graph.constants[found[name]] for name in "AB"]
    if found is None or any(number.size != 1 or number.ndim > 1 for number in numbers):
        return ()
    pairs = zip(found.nodes[1:], (number.reshape(()) for number in numbers), strict=True)
    left, right = (number if node.op == "Mul" else 1 / number for node, number in pairs)
    scale = new.constant(f"{matmul.output}_scale", np.asarray(left * right))
    scaled = new.name(f"{matmul.output}_scaled")
    product = Node("Mul", (found["q"], scale), (scaled,), name=f"{matmul.name}_scale")
    return product, replace(matmul, inputs=(scaled, found["k"]))
