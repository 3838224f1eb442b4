"""Write attention in the layout for which engines have one kernel: [batch, heads, tokens, width], weights times values.

TensorRT-RTX 1.7 has one kernel for both products and the softmax between them, if the tensors have these four axes and
the width is 16 or more. The program text of its engines shows this. It has no such kernel for values times transposed
weights, nor for heads merged with the batch. In the layout written here, no engine transposes weights [tokens, tokens].
"""

from dataclasses import replace

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.passes.split_attention import attention_of
from fewstep.graph.pattern import Match, match
from fewstep.graph.types import Types, infer_types

HEADS = 1  # axis
TURNED: dict[str, object] = {"perm": [0, 1, 3, 2]}


def form_attention(graph: Graph) -> Graph:
    """Write each attention as MatMul(Softmax(MatMul(q, k)), v) with four axes.

        MatMul(v, Transpose(w))                 ==>      Transpose(MatMul(w, Transpose(v)))
        MatMul(Softmax(MatMul(q, k)), v) [b, n, d]   ==>      Squeeze(MatMul(Softmax(MatMul(q', k')), v')) [b, 1, n, d]

    Here w is the result of a Softmax over its last axis, and q', k', v' are q, k, v with an axis for one head.
    """
    idx, types, new = index(graph), infer_types(graph), NewNodes(graph)
    changed: dict[str, tuple[Node, ...]] = {}
    for node in graph.nodes:
        turned = match(node, "MatMul(values, *Transpose(*Softmax(scores)))", idx)
        found = turned or match(node, "MatMul(*Softmax(scores), values)", idx)
        softmax = node if found is None else found.nodes[-1]
        if found is None or softmax.attributes.get("axis", -1) not in (-1, (types.rank(softmax.output) or 0) - 1):
            continue
        changed |= _weights_first(found, new) if turned else _four_axes(softmax, graph, idx, types, new)
    return graph.with_nodes(
        (replacement for node in graph.nodes for replacement in changed.get(node.output, (node,))), new.constants
    )


def _weights_first(found: Match, new: NewNodes) -> dict[str, tuple[Node, ...]]:
    """Return the nodes of the product with the weights on its left, by the outputs that they replace; nothing unless
    the last two axes of the weights are swapped."""
    product, turned, softmax = found.nodes
    perm = list(turned.attributes.get("perm", ()))
    if len(perm) < 2 or perm != [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]:
        return {}
    values, transposed = new.name(f"{product.output}_values"), new.name(f"{product.output}_transposed")
    turn = {"perm": perm}
    nodes = (
        Node("Transpose", (found["values"],), (values,), turn, f"{product.name}_values"),
        replace(product, inputs=(softmax.output, values), outputs=(transposed,)),
        Node("Transpose", (transposed,), product.outputs, turn, turned.name),
    )
    return {turned.output: (), product.output: nodes}


def _four_axes(softmax: Node, graph: Graph, idx: Index, types: Types, new: NewNodes) -> dict[str, tuple[Node, ...]]:
    """Return the nodes that compute three-axis attention with a fourth axis, for one head, by the outputs that they
    replace. The scores may be scaled by a number. Empty if the Softmax is not part of such an operation."""
    attention = attention_of(softmax, idx, lambda node: _is_scalar_scale(node, graph))
    if attention is None:
        return {}
    source, between, product = attention.scores, attention.between, attention.product
    operands = (*source.inputs, product.inputs[1])  # q, k and v
    if any(types.rank(name) != 3 or graph.is_constant(name) for name in operands):
        return {}
    axis, nodes = new.constant("axis_of_heads", np.array([HEADS], np.int64)), list[Node]()

    def add(node: Node, inputs: tuple[str, ...], attributes: dict[str, object] | None = None) -> str:
        """Append a copy of a node with other inputs; return its output."""
        output = new.name(f"{node.output}_of_heads")
        nodes.append(replace(node, inputs=inputs, outputs=(output,), attributes=attributes or node.attributes))
        return output

    def add_head_axis(name: str) -> str:
        """Return the tensor with an axis for one head. The axis comes before Transposes and scales, otherwise no fused
        kernel is used."""
        node = idx.producers.get(name)
        if node is not None and idx.is_inner(name) and _swaps_last_axes(node):
            return add(node, (add_head_axis(node.inputs[0]),), TURNED)
        if node is not None and idx.is_inner(name) and _is_scalar_scale(node, graph):
            return add(node, (add_head_axis(node.inputs[0]), node.inputs[1]))
        output = new.name(f"{name}_of_heads")
        nodes.append(Node("Unsqueeze", (name, axis), (output,), name=output))
        return output

    last = add(source, (add_head_axis(source.inputs[0]), add_head_axis(source.inputs[1])))
    for node in between:
        last = add(node, (last, *node.inputs[1:]), {"axis": -1} if node is softmax else None)
    last = add(product, (last, add_head_axis(product.inputs[1])))
    end = product
    readers = idx.consumers.get(product.output, ())
    if idx.is_inner(product.output) and _swaps_last_axes(readers[0]):
        end = readers[0]
        last = add(end, (last,), TURNED)
    nodes.append(Node("Squeeze", (last, axis), end.outputs, name=f"{product.name}_squeeze"))
    return {node.output: () for node in (source, *between, product)} | {end.output: tuple(nodes)}


def _swaps_last_axes(node: Node) -> bool:
    """Return True if a node swaps the last two of three axes."""
    return node.op == "Transpose" and not node.domain and list(node.attributes.get("perm", ())) == [0, 2, 1]


def _is_scalar_scale(node: Node, graph: Graph) -> bool:
    """Return True if a node multiplies or divides by a constant scalar."""
    number = graph.constants.get(node.inputs[1]) if node.op in ("Mul", "Div") else None
    return number is not None and number.size == 1
