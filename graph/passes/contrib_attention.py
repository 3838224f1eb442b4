"""Write attention as MultiHeadAttention of com.microsoft, a single kernel from queries, keys and values to the
result."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index, index, sort_topologically
from fewstep.graph.passes.attention_mask import MaskConverter, is_sum, split_mask
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.split_attention import AttentionNodes, attention_of, split_attention
from fewstep.graph.pattern import match
from fewstep.graph.selection import CONTRIB
from fewstep.graph.types import Types, infer_types

HEADS = [0, 2, 1, 3]  # [B, heads, tokens, width] <-> [B, tokens, heads, width]
# How the tokens come before the heads and their width: axes of queries or values, and of keys, by the number of axes.
TOKENS_FIRST = {3: [0, 1, 2], 4: HEADS}
TOKENS_LAST = {3: [0, 2, 1], 4: [0, 3, 1, 2]}


def hold_few_scores(graph: Graph) -> Graph:
    """Write each attention without a mask as one MultiHeadAttention, for onnxruntime's CPU provider, and compute others
    a few heads at a time if their scores are large.

    The kernel computes the softmax of a block of scores while the block is in the cache (Dao et al. 2022, arXiv
    2205.14135), and keeps no scores in memory. The kernel takes 0.87 to 0.97 of the time of MatMul, Softmax and MatMul
    for 64 and 256 tokens, 0.66 for 1024 tokens, and 0.78 for 4096 tokens. With a mask the kernel holds the scores of
    all heads. OpenVINO reads it as its own kernel. Shapes must be known, so weights must be float.
    """
    return split_attention(fuse_attention(graph, infer_types(graph), has_masks=False))


def fuse_attention(graph: Graph, types: Types, has_masks: bool = True) -> Graph:
    """Write each attention as one MultiHeadAttention.

        MatMul(Softmax(MatMul(q * a, k) + m), v) [B, h, n, d]
            ==>      MultiHeadAttention(q', k', v', attention_bias=m', num_heads=h, scale=a) [B, n, h * d]

    Here q', k', v' are the queries, keys and values as [B, tokens, h * d]. Transposes and Gathers that only arranged
    the heads disappear. If queries, keys and values are three parts of one tensor, a Split of that tensor replaces the
    Gathers. m' is the mask m, if there is one, as [B or 1, h or 1, n, keys]. A selection of 0 for queries without a key
    follows the kernel. Attention whose shapes are not in `types` stays as it is, and so does attention with a mask for
    a free number of tokens.

    has_masks: False leaves every attention with a mask as it is.
    """
    change = _change_of(graph, types, has_masks)
    for softmax in _softmaxes(graph):
        form = change.find_form(softmax)
        if isinstance(form, _Form):
            change.fuse(form)
    nodes = [replacement for node in graph.nodes for replacement in change.replaced.get(node.output, (node,))]
    changed = graph.with_nodes(nodes, change.new.constants)
    known = (*changed.constants, *(value.name for value in (*graph.inputs, *graph.optional)))
    # A Split is written before the attention that is found first, but another one may read it earlier.
    return drop_unused(changed.with_nodes(sort_topologically(nodes, known)))


def explain_separate_attention(graph: Graph, types: Types) -> dict[str, int]:
    """Return why `fuse_attention` leaves attention as MatMul, Softmax and MatMul: the number of softmaxes for each
    reason, the most frequent first."""
    change = _change_of(graph, types, has_masks=True)
    forms = map(change.find_form, _softmaxes(graph))
    return dict(Counter(form for form in forms if isinstance(form, str)).most_common())


def _softmaxes(graph: Graph) -> Iterator[Node]:
    return (node for node in graph.nodes if node.op == "Softmax" and not node.domain)


def _change_of(graph: Graph, types: Types, has_masks: bool) -> "_Change":
    idx, new = index(graph), NewNodes(graph)
    return _Change(graph, idx, types, new, MaskConverter(graph, idx, types, new) if has_masks else None)


@dataclass(frozen=True)
class _Form:
    """Attention that the kernel supports.

    operands: queries without their scales, keys and values, each with its axes in the order [B, tokens, heads, width].
    sizes: those of the scores, [B, heads, tokens, keys]. scale: the factor of the scores. mask: the tensor that is
    added to them, or "".
    """

    nodes: AttentionNodes
    operands: tuple[tuple[str, list[int]], ...]
    rank: int
    heads: int
    sizes: tuple[int | str, ...]
    scale: float
    mask: str


@dataclass(frozen=True)
class _Change:
    """The nodes that replace others, keyed by the output of the replaced node, and the products that are split into
    parts. Without `masks`, attention with a mask stays as it is."""

    graph: Graph
    idx: Index
    types: Types
    new: NewNodes
    masks: MaskConverter | None
    replaced: dict[str, tuple[Node, ...]] = field(default_factory=dict)
    parts: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def find_form(self, softmax: Node) -> _Form | str:
        """Return the attention of a softmax, or why the kernel cannot compute it."""
        attention = attention_of(softmax, self.idx, self._may_precede)
        if attention is None:
            return "other nodes are between its products, or read its scores"
        rank = self.types.rank(softmax.output)
        if rank not in TOKENS_FIRST:
            return f"its scores have {'an unknown number of' if rank is None else rank} axes"
        if softmax.attributes.get("axis", -1) not in (-1, rank - 1):
            return "its softmax is not along the last axis"
        query, scale = self._unscale(attention.scores.inputs[0])
        operands = (
            (query, TOKENS_FIRST[rank]),
            (attention.scores.inputs[1], TOKENS_LAST[rank]),
            (attention.product.inputs[1], TOKENS_FIRST[rank]),
        )
        shapes = [self._shape(name, axes) for name, axes in operands]
        heads = 1 if rank == 3 else (shapes[0] or (0, 0, "?"))[2]
        split, sizes = split_mask(attention), _score_sizes(shapes, heads)
        if sizes is None or not isinstance(heads, int):
            return "the shapes of its queries, keys and values are unknown, or differ"
        if split is None:
            return "it has several masks, or scales one"
        scales, mask = split
        if mask and (self.masks is None or not self.masks.is_supported(mask, attention.scores.output, sizes)):
            return "it has a mask" if self.masks is None else "its mask has a shape that the kernel does not take"
        return _Form(attention, operands, rank, heads, sizes, scale * self._product(scales), mask)

    def fuse(self, form: _Form) -> None:
        """Replace attention by the nodes of its kernel."""
        nodes: list[Node] = []
        flat = tuple(self._flatten(name, axes, nodes) for name, axes in form.operands)
        bias = ("", "", self.masks.bias(form.mask, form.sizes, form.rank, nodes)) if form.mask and self.masks else ()
        attributes: dict[str, object] = {"num_heads": form.heads, "scale": float(form.scale)}
        self._replace(form.nodes, (*flat, *bias), attributes, nodes)

    def _replace(
        self, attention: AttentionNodes, flat: tuple[str, ...], attributes: dict[str, object], nodes: list[Node]
    ) -> None:
        """Replace an attention operation by the nodes `nodes` and one fused attention node."""
        product = attention.product
        name, rank = product.name or product.output, self.types.rank(product.output)
        selection = self.masks.selection(product) if self.masks else None
        joins = self._joins(selection or product) if rank == 4 else ()
        selection = selection if joins else None
        last = joins[-1] if joins else product
        is_last = rank == 3 or (joins and selection is None)
        mixed = last.output if is_last else self.new.name(f"{product.output}_mixed")
        nodes.append(Node("MultiHeadAttention", flat, (mixed,), attributes, name, CONTRIB))
        if selection is not None:
            has_key = self.new.name(f"{product.output}_has_key")
            axis = self.new.constant("axis_of_heads", np.array([1], np.int64))
            nodes.append(Node("Squeeze", (selection.inputs[0], axis), (has_key,), name=has_key))
            nodes.append(replace(selection, inputs=(has_key, mixed, selection.inputs[2]), outputs=last.outputs))
        elif mixed != last.output:
            apart, sizes = self.new.name(f"{product.output}_apart"), [0, 0, attributes["num_heads"], -1]
            shape = self.new.constant("shape_of_heads", np.array(sizes, np.int64))
            nodes.append(Node("Reshape", (mixed, shape), (apart,), name=apart))
            nodes.append(Node("Transpose", (apart,), product.outputs, {"perm": HEADS}, f"{name}_heads"))
        gone = (attention.scores, *attention.between, product, *([selection] if selection else []), *joins)
        self.replaced.update({node.output: () for node in gone} | {last.output: tuple(nodes)})

    def _may_precede(self, node: Node) -> bool:
        """Return True for a scale, and for a sum with a mask, before a softmax."""
        return self._is_scale(node) or is_sum(node)

    def _is_scale(self, node: Node) -> bool:
        number = self.graph.constants.get(node.inputs[1]) if node.op in ("Mul", "Div") and not node.domain else None
        return number is not None and number.size == 1

    def _product(self, nodes: Sequence[Node]) -> float:
        """Return the total factor by which these Mul and Div nodes scale their input."""
        total = 1.0
        for node in nodes:
            number = float(self.graph.constants[node.inputs[1]].reshape(()))
            total = total * number if node.op == "Mul" else total / number
        return total

    def _unscale(self, name: str) -> tuple[str, float]:
        """Return the tensor before the nodes that scale it, and the product of their factors."""
        scale, node = 1.0, self.idx.producers.get(name)
        while node is not None and self._is_scale(node):
            scale, name = scale * self._product([node]), node.inputs[0]
            node = self.idx.producers.get(name)
        return name, scale

    def _shape(self, name: str, axes: Sequence[int]) -> tuple[int | str, ...] | None:
        """Return the sizes of an operand along `axes`, as (B, tokens, width) or (B, tokens, heads, width). None if its
        shape is unknown or has another number of axes."""
        shape = self.types.shape(name)
        return None if shape is None or len(shape) != len(axes) else tuple(shape[axis] for axis in axes)

    def _flatten(self, name: str, axes: Sequence[int], nodes: list[Node]) -> str:
        """Return the name of an operand as [B, tokens, heads * width], and append the nodes that compute it."""
        while True:
            part = self._part(name, axes, nodes)
            if part:
                return part
            node = self.idx.producer(name, "Transpose")
            if node is None or list(axes) == [*range(len(axes))]:
                break
            perm = node.attributes.get("perm", [*reversed(range(len(axes)))])
            name, axes = node.inputs[0], [perm[axis] for axis in axes]
        if list(axes) != [*range(len(axes))]:
            apart = self.new.name(f"{name}_tokens")
            nodes.append(Node("Transpose", (name,), (apart,), {"perm": list(axes)}, apart))
            name = apart
        return name if len(axes) == 3 else self._join(name, nodes)

    def _join(self, name: str, nodes: list[Node]) -> str:
        """Return a tensor [B, tokens, heads, width] as [B, tokens, heads * width]."""
        node = self.idx.producer(name, "Reshape")
        before, after = (None, None) if node is None else map(self.types.shape, (node.inputs[0], name))
        if node is not None and before and after and len(before) == 3 and before[:2] == after[:2]:
            return node.inputs[0]
        joined, shape = self.new.name(f"{name}_joined"), self.new.constant("shape_joined", np.array([0, 0, -1]))
        nodes.append(Node("Reshape", (name, shape), (joined,), name=joined))
        return joined

    def _part(self, name: str, axes: Sequence[int], nodes: list[Node]) -> str:
        """Return the name of the part of a Split that equals Gather(Transpose(Reshape(t, [B, n, parts, h, d])), i); ""
        for other tensors."""
        found = match(self.idx.producers.get(name), "Gather(Transpose(Reshape(t)), NUMBER)", self.idx)
        if found is None or list(axes) != HEADS or found.nodes[0].attributes.get("axis", 0) != 0:
            return ""
        _, turned, split = found.nodes
        number, apart, whole = self.graph.constants[found["NUMBER"]], *map(self.types.shape, (split.output, found["t"]))
        if number.ndim or list(turned.attributes.get("perm", ())) != [2, 0, 3, 1, 4] or not apart or not whole:
            return ""
        if len(apart) != 5 or len(whole) != 3 or apart[:2] != whole[:2] or not isinstance(apart[2], int):
            return ""
        if found["t"] not in self.parts:
            names = tuple(self.new.name(f"{found['t']}_part_{each}") for each in range(apart[2]))
            nodes.append(Node("Split", (found["t"],), names, {"axis": 2, "num_outputs": apart[2]}, names[0]))
            self.parts[found["t"]] = names
        return self.parts[found["t"]][int(number)]

    def _joins(self, product: Node) -> tuple[Node, ...]:
        """Return the Transpose and the Reshape after attention that join its heads; an empty tuple if other nodes
        follow."""
        if not self.idx.is_inner(product.output):
            return ()
        (turned,) = self.idx.consumers[product.output]
        if turned.op != "Transpose" or list(turned.attributes.get("perm", ())) != HEADS:
            return ()
        if not self.idx.is_inner(turned.output):
            return ()
        (joined,) = self.idx.consumers[turned.output]
        before, after = (self.types.shape(node.output) for node in (turned, joined))
        is_joined = joined.op == "Reshape" and before and after and len(after) == 3 and before[:2] == after[:2]
        return (turned, joined) if is_joined else ()


def _score_sizes(shapes: Sequence[tuple[int | str, ...] | None], heads: int | str) -> tuple[int | str, ...] | None:
    """Return the sizes [B, heads, tokens, keys] of the attention scores if `shapes`, each [B, tokens, (heads,) width],
    are those of queries, keys and values of one attention. Otherwise return None."""
    if any(shape is None for shape in shapes):
        return None
    query, keys, values = (shape for shape in shapes if shape is not None)
    is_alike = query[0] == keys[0] == values[0] and query[2:] == keys[2:] and keys[1:-1] == values[1:-1]
    fits = is_alike and isinstance(query[-1], int) and isinstance(values[-1], int)
    return (query[0], heads, query[1], keys[1]) if fits else None
