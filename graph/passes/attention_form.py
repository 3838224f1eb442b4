"""Attention in the form that engines make one kernel of: [batch, heads, tokens, width], weights times values.

TensorRT-RTX 1.7 (read in the program text of its engines) has one kernel for the two products and the softmax between,
from a width of 16 on, where they stand like that. It has none for values times transposed weights, nor where heads were
merged with the batch; and no engine has to turn weights [tokens, tokens] around.
"""

from dataclasses import replace

import numpy as np

from fewstep.graph.additions import Additions
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.types import Types, infer_types

HEADS = 1  # axis
TURNED: dict[str, object] = {"perm": [0, 1, 3, 2]}


def form_attention(graph: Graph) -> Graph:
    """Write each attention as MatMul(Softmax(MatMul(q, k)), v) of four axes.

        MatMul(v, Transpose(w))                 ==>      Transpose(MatMul(w, Transpose(v)))
        MatMul(Softmax(MatMul(q, k)), v) [b, n, d]   ==>      Squeeze(MatMul(Softmax(MatMul(q', k')), v')) [b, 1, n, d]

    with w the result of a Softmax over its last axis, and q', k', v' the tensors with an axis for one head.
    """
    idx, types, new = index(graph), infer_types(graph), Additions(graph)
    changed: dict[str, tuple[Node, ...]] = {}
    for softmax in graph.nodes:
        if softmax.op != "Softmax" or softmax.domain or not idx.is_inner(softmax.output):
            continue
        if softmax.attributes.get("axis", -1) not in (-1, (types.rank(softmax.output) or 0) - 1):
            continue
        changed |= _weights_first(softmax, idx, new) or _four_axes(softmax, graph, idx, types, new)
    return graph.with_nodes((made for node in graph.nodes for made in changed.get(node.output, (node,))), new.constants)


def _weights_first(softmax: Node, idx: Index, new: Additions) -> dict[str, tuple[Node, ...]]:
    """The product with the weights on its left, in place of that with their transpose on its right."""
    (turned,) = idx.consumers[softmax.output]
    perm = list(turned.attributes.get("perm", ())) if turned.op == "Transpose" and not turned.domain else []
    if (
        len(perm) < 2
        or perm != [*range(len(perm) - 2), len(perm) - 1, len(perm) - 2]
        or not idx.is_inner(turned.output)
    ):
        return {}
    (product,) = idx.consumers[turned.output]
    if product.op != "MatMul" or product.domain or product.inputs[1] != turned.output:
        return {}
    values, made = new.name(f"{product.output}_values"), new.name(f"{product.output}_transposed")
    turn = {"perm": perm}
    nodes = (
        Node("Transpose", (product.inputs[0],), (values,), turn, f"{product.name}_values"),
        replace(product, inputs=(softmax.output, values), outputs=(made,)),
        Node("Transpose", (made,), product.outputs, turn, turned.name),
    )
    return {turned.output: (), product.output: nodes}


def _four_axes(softmax: Node, graph: Graph, idx: Index, types: Types, new: Additions) -> dict[str, tuple[Node, ...]]:
    """The attention of three axes with one more, of one head. A number may scale its scores."""
    (product,) = idx.consumers[softmax.output]
    if product.op != "MatMul" or product.domain or product.inputs[0] != softmax.output:
        return {}
    between: list[Node] = [softmax]
    while True:
        source = idx.producers.get(between[0].inputs[0])
        if source is None or source.domain or not idx.is_inner(source.output):
            return {}
        if source.op == "MatMul":
            break
        if source.op not in ("Mul", "Div") or not _is_number(source.inputs[1], graph):
            return {}
        between.insert(0, source)
    given = (*source.inputs, product.inputs[1])
    if any(types.rank(name) != 3 or graph.is_constant(name) for name in given):
        return {}
    axis, nodes = new.constant("axis_of_heads", np.array([HEADS], np.int64)), list[Node]()

    def made(node: Node, inputs: tuple[str, ...], attributes: dict[str, object] | None = None) -> str:
        output = new.name(f"{node.output}_of_heads")
        given = node.attributes if attributes is None else attributes
        nodes.append(replace(node, inputs=inputs, outputs=(output,), attributes=given))
        return output

    def headed(name: str) -> str:
        """The tensor with an axis for one head, added in front of what only turns and scales it: else no kernel."""
        node = idx.producers.get(name)
        if node is not None and idx.is_inner(name) and _turns(node):
            return made(node, (headed(node.inputs[0]),), TURNED)
        if node is not None and idx.is_inner(name) and node.op in ("Mul", "Div") and _is_number(node.inputs[1], graph):
            return made(node, (headed(node.inputs[0]), node.inputs[1]))
        output = new.name(f"{name}_of_heads")
        nodes.append(Node("Unsqueeze", (name, axis), (output,), name=output))
        return output

    last = made(source, (headed(source.inputs[0]), headed(source.inputs[1])))
    for node in between:
        last = made(node, (last, *node.inputs[1:]), {"axis": -1} if node is softmax else None)
    last = made(product, (last, headed(product.inputs[1])))
    end = product
    readers = idx.consumers.get(product.output, ())
    if idx.is_inner(product.output) and _turns(readers[0]):
        end = readers[0]
        last = made(end, (last,), TURNED)
    nodes.append(Node("Squeeze", (last, axis), end.outputs, name=f"{product.name}_squeeze"))
    return {node.output: () for node in (source, *between, product)} | {end.output: tuple(nodes)}


def _turns(node: Node) -> bool:
    """Whether a node turns the last two of three axes around."""
    return node.op == "Transpose" and not node.domain and list(node.attributes.get("perm", ())) == [0, 2, 1]


def _is_number(name: str, graph: Graph) -> bool:
    value = graph.constants.get(name)
    return value is not None and value.size == 1
