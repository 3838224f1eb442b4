"""Compute attention for a few heads at a time if the scores of all heads take much memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import ceil

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.types import Types, infer_types

LARGE = 2**26  # bytes of scores of one sample held at once; a softmax holds them twice
RANK, HEADS, QUERIES = 4, -3, -2  # axes of scores [batch, heads, queries, keys], counted from the end
UNKNOWN = -1  # not an axis: axes of tensors count from 0
SCALING = ("Mul", "Div", "Add", "Sub")  # allowed between the product and the softmax: scales and masks


@dataclass(frozen=True)
class AttentionNodes:
    """The nodes of attention, MatMul(Softmax(between(MatMul(q, k))), v): `scores` is the first MatMul and `product`
    the second. `between` are the nodes between them from first to last; the last one is the Softmax."""

    scores: Node
    between: tuple[Node, ...]
    product: Node


def split_attention(graph: Graph, large: int | None = None) -> Graph:
    """Compute attention for some heads at a time if the scores of a sample take more than `large` bytes.

        MatMul(Softmax(MatMul(q, k)), v)    ==>    Concat(MatMul(Softmax(MatMul(q_i, k_i)), v_i) for each part i)

    `large` defaults to LARGE. Products and softmaxes treat each index of the leading axes separately, so splitting
    these does not change any number. An attention with one head is split along its queries if their number is fixed;
    its products then differ by rounding.

    An engine with a kernel for attention recognizes only the whole form. This pass is for engines without such a
    kernel.
    """
    softmaxes = [node for node in graph.nodes if node.op == "Softmax" and not node.domain]
    if not softmaxes:
        return graph
    idx, types, new = index(graph), infer_types(graph), NewNodes(graph)
    changed: dict[str, tuple[Node, ...]] = {}
    for softmax in softmaxes:
        if types.rank(softmax.output) != RANK or softmax.attributes.get("axis", -1) not in (-1, 3):
            continue
        attention = attention_of(softmax, idx, _may_scale)
        if attention is not None and types.rank(attention.product.output) == RANK:
            nodes = tuple(_split_heads(attention, graph, types, new, LARGE if large is None else large))
            changed |= {node.output: () for node in (attention.scores, *attention.between)} if nodes else {}
            changed |= {attention.product.output: nodes} if nodes else {}
    if not changed:
        return graph
    return graph.with_nodes(
        (replacement for node in graph.nodes for replacement in changed.get(node.output, (node,))), new.constants
    )


def attention_of(softmax: Node, idx: Index, may_scale: Callable[[Node], bool]) -> AttentionNodes | None:
    """Return the nodes of the attention to which a Softmax belongs, or None if there is no attention, or if other nodes
    read its inner tensors. `may_scale` selects the nodes allowed between the product of queries and keys and the
    Softmax."""
    if not idx.is_inner(softmax.output):
        return None
    (product,) = idx.consumers[softmax.output]
    if product.op != "MatMul" or product.domain or product.inputs[0] != softmax.output:
        return None
    between = [softmax]
    while True:
        source = idx.producers.get(between[0].inputs[0])
        if source is None or source.domain or not idx.is_inner(source.output):
            return None
        if source.op == "MatMul":
            return AttentionNodes(source, tuple(between), product)
        if not may_scale(source):
            return None
        between.insert(0, source)


def _may_scale(node: Node) -> bool:
    """Return True if a node is one of SCALING and its two operands are different tensors."""
    return node.op in SCALING and node.inputs[0] != node.inputs[1]


def _split_heads(attention: AttentionNodes, graph: Graph, types: Types, new: NewNodes, large: int) -> Iterator[Node]:
    """Yield the nodes that replace an attention operation; none if it is small or cannot be split."""
    size, shape = types.sample_bytes(attention.scores.output), types.shape(attention.scores.output)
    if size is None or shape is None or size <= large:
        return
    axis = QUERIES if shape[HEADS] == 1 else HEADS
    length = shape[axis]
    if not isinstance(length, int):
        return
    parts = next((number for number in range(ceil(size / large), length) if length % number == 0), length)
    q, k = attention.scores.inputs
    v = attention.product.inputs[1]
    others = [name for node in attention.between for name in node.inputs[1:]]
    along = {name: _axis(name, axis, length, graph, types) for name in (q, *others)}
    of_keys = {name: None if axis == QUERIES else _axis(name, axis, length, graph, types) for name in (k, v)}
    twice = along.keys() & of_keys.keys()  # a tensor may have two roles, one of which needs the whole tensor
    if UNKNOWN in (along | of_keys).values() or any(along[name] != of_keys[name] for name in twice):
        return
    along |= of_keys
    pieces = {}
    for name, place in along.items():
        pieces[name] = [name] * parts
        if place is not None:
            pieces[name] = [new.name(f"{attention.product.output}_{name}_{part}") for part in range(parts)]
            attributes = {"axis": place, "num_outputs": parts}
            yield Node("Split", (name,), tuple(pieces[name]), attributes, f"{attention.product.output}_{name}_split")
    results = []
    for part in range(parts):
        result = pieces[q][part]
        for node in (attention.scores, *attention.between, attention.product):
            inputs = (result, *(pieces[name][part] for name in node.inputs[1:]))
            result = new.name(f"{node.output}_{part}")
            yield replace(node, inputs=inputs, outputs=(result,), name=f"{node.name or node.output}_{part}")
        results.append(result)
    yield Node("Concat", tuple(results), attention.product.outputs, {"axis": RANK + axis}, attention.product.name)


def _axis(name: str, axis: int, length: int, graph: Graph, types: Types) -> int | None:
    """Return the axis of a tensor that corresponds to `axis` of the scores; None if all parts read the whole tensor."""
    shape = graph.constants[name].shape if name in graph.constants else types.shape(name)
    if shape is None:
        return UNKNOWN
    size = shape[axis] if len(shape) >= -axis else 1
    if size == 1:
        return None
    return len(shape) + axis if size == length else UNKNOWN
