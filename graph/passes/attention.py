"""Split queries, keys and values of attention, and scale them, with the fewest operations."""

from dataclasses import replace

import numpy as np

from fewstep.graph.additions import Additions
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.types import Types, infer_types


def simplify_attention(graph: Graph) -> Graph:
    """Write attention as two MatMuls around a Softmax, with no layout operations but those that it needs.

        Squeeze(Slice(qkv, i : i + 1))                                ==>      Gather(qkv, i)
        Reshape(Transpose(Reshape(k, [-1, n, d]), 021), [b, h, d, n])  ==>      Transpose(k, 0132)
        MatMul(q * a, k * b)                                          ==>      MatMul(q * (a * b), k)

    In the last line a and b are numbers; q / a and k / b are rewritten too. torch scales q and k each by the square
    root of the attention's scale.
    """
    idx, types, new = index(graph), infer_types(graph), Additions(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.op == "Squeeze":
            nodes.append(_one_of(node, graph, idx, new) or node)
        elif node.op == "Reshape":
            nodes.append(_transposed_keys(node, idx, types) or node)
        elif node.op == "MatMul":
            nodes.extend(_scaled_once(node, graph, idx, new) or (node,))
        else:
            nodes.append(node)
    return graph.with_nodes(nodes, new.constants)


def _one_of(squeeze: Node, graph: Graph, idx: Index, new: Additions) -> Node | None:
    """The Gather that replaces a Slice of length 1 and the Squeeze of its axis; None where there is no such pair."""
    part = idx.producer(squeeze.inputs[0], "Slice")
    if part is None or len(part.inputs) < 4 or len(squeeze.inputs) < 2:
        return None
    numbers = [graph.constants.get(name) for name in (*part.inputs[1:], squeeze.inputs[1])]
    if any(value is None or value.size != 1 for value in numbers):
        return None
    start, end, axis, *step, squeezed = (int(value.reshape(())) for value in numbers if value is not None)
    if end != start + 1 or axis != squeezed or start < 0 or axis < 0 or step not in ([], [1]):
        return None
    name = new.constant(f"index_{start}", np.asarray(start, np.int64))
    return Node("Gather", (part.inputs[0], name), squeeze.outputs, {"axis": axis}, squeeze.name)


def _transposed_keys(reshape: Node, idx: Index, types: Types) -> Node | None:
    """The Transpose of the last two axes that replaces a Reshape; None unless the leading axes were merged for it."""
    inner = idx.producer(reshape.inputs[0], "Transpose")
    merge = idx.producer(inner.inputs[0], "Reshape") if inner else None
    if inner is None or merge is None or list(inner.attributes.get("perm", ())) != [0, 2, 1]:
        return None
    before, merged, after = (types.shape(name) for name in (merge.inputs[0], merge.output, reshape.output))
    if before is None or merged is None or after is None or len(before) < 3 or len(before) != len(after):
        return None
    if merged[1:] != before[-2:] or after[-2:] != (before[-1], before[-2]) or after[1:-2] != before[1:-2]:
        return None
    rank = len(before)
    perm = [*range(rank - 2), rank - 1, rank - 2]
    return Node("Transpose", (merge.inputs[0],), reshape.outputs, {"perm": perm}, reshape.name)


def _scaled_once(matmul: Node, graph: Graph, idx: Index, new: Additions) -> tuple[Node, ...]:
    """The product with one scale on its left; nothing unless a number scales both factors."""
    left, right = (_number_times(name, graph, idx) for name in matmul.inputs)
    if left is None or right is None:
        return ()
    scale = new.constant(f"{matmul.output}_scale", np.asarray(left[1] * right[1]))
    scaled = new.name(f"{matmul.output}_scaled")
    return Node("Mul", (left[0], scale), (scaled,), name=f"{matmul.name}_scale"), replace(
        matmul, inputs=(scaled, right[0])
    )


def _number_times(name: str, graph: Graph, idx: Index) -> tuple[str, Array] | None:
    """(x, c) if the tensor is x * c, or x / (1 / c), for a constant number c."""
    scaled = idx.producer(name, "Mul") or idx.producer(name, "Div")
    if scaled is None:
        return None
    for tensor, number in (scaled.inputs, scaled.inputs[::-1])[: 1 if scaled.op == "Div" else 2]:
        value = graph.constants.get(number)
        if value is not None and value.size == 1 and value.ndim <= 1:
            return tensor, value.reshape(()) if scaled.op == "Mul" else 1 / value.reshape(())
    return None
