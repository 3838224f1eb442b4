"""Convert an attention mask for MultiHeadAttention, and find the selection of queries that have a key."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index
from fewstep.graph.passes.split_attention import AttentionNodes
from fewstep.graph.types import Types

Shape = tuple[int | str, ...]


def is_sum(node: Node) -> bool:
    """Return True for an Add that does not add a tensor to itself."""
    return node.op == "Add" and not node.domain and node.inputs[0] != node.inputs[1]


def split_mask(attention: AttentionNodes) -> tuple[Sequence[Node], str] | None:
    """Return the scales between the first product and the softmax, and the mask that is added last, or "".

    None if several tensors are added, or the mask is scaled too.
    """
    before = attention.between[:-1]
    masks = [node for node in before if is_sum(node)]
    if not masks:
        return before, ""
    return (before[:-1], masks[0].inputs[1]) if masks == [before[-1]] else None


@dataclass(frozen=True)
class MaskConverter:
    """Converts attention masks to the shape that the fused kernel reads. A mask that several attentions read is
    converted once.

    written: the names of the converted masks, by the original mask and the sizes of the scores.
    """

    graph: Graph
    idx: Index
    types: Types
    new: NewNodes
    written: dict[tuple[int | str, ...], str] = field(default_factory=dict)

    def is_supported(self, mask: str, scores: str, sizes: Shape) -> bool:
        """Return whether the kernel accepts a mask: it must have the dtype of the scores and be broadcastable to them,
        with the full size on the key axis. All sizes except B must be fixed.

        sizes: sizes [B, h, n, keys] of the scores, even if the scores themselves have no head axis.
        """
        shape, scored = self._shape(mask), self.types.values.get(scores)
        typed = self.graph.constants.get(mask, self.types.values.get(mask))
        if not shape or scored is None or typed is None or typed.dtype != scored.dtype:
            return False
        if len(shape) > len(scored.shape) or shape[-1] != sizes[-1] or not all(isinstance(n, int) for n in sizes[1:]):
            return False
        own = sizes if len(scored.shape) == len(sizes) else (sizes[0], *sizes[2:])
        return all(size in (1, whole) for size, whole in zip(shape, own[len(own) - len(shape) :], strict=True))

    def bias(self, mask: str, sizes: Shape, rank: int, nodes: list[Node]) -> str:
        """Return the name of a mask as [B or 1, h or 1, n, keys], and append the nodes that compute it.

        rank: the number of axes of the scores.
        """
        shape = self._shape(mask)
        assert shape is not None, "is_supported has seen it"
        if (mask, *sizes) not in self.written:
            name, missing = mask, len(sizes) - len(shape)
            if missing:
                axes = [1] if (rank, len(shape)) == (3, 3) else [*range(missing)]
                name = self.new.name(f"{mask}_of_heads")
                places = self.new.constant(f"axes_{'_'.join(map(str, axes))}", np.array(axes, np.int64))
                nodes.append(Node("Unsqueeze", (mask, places), (name,), name=name))
            if (1, *shape)[-2] != sizes[-2]:
                source, name = name, self.new.name(f"{mask}_of_queries")
                repeats = self.new.constant(f"queries_{sizes[-2]}", np.array([1, 1, sizes[-2], 1], np.int64))
                nodes.append(Node("Expand", (source, repeats), (name,), name=name))
            self.written[(mask, *sizes)] = name
        return self.written[(mask, *sizes)]

    def selection(self, product: Node) -> Node | None:
        """Return the Where node that masks the output of attention [B, h, n, d]: it replaces the results of some
        queries by one constant, in all heads. Export writes such a node, with the constant 0, for queries whose keys
        are all masked. Return None if the output has other readers, or no such Where."""
        if not self.idx.is_inner(product.output):
            return None
        (node,) = self.idx.consumers[product.output]
        if node.op != "Where" or node.domain or node.inputs[1] != product.output:
            return None
        condition, number = self._shape(node.inputs[0]), self.graph.constants.get(node.inputs[2])
        is_of_queries = condition is not None and len(condition) == 4 and condition[1] == condition[3] == 1
        return node if is_of_queries and number is not None and number.size == 1 and number.ndim < 4 else None

    def _shape(self, name: str) -> Shape | None:
        constant = self.graph.constants.get(name)
        return self.types.shape(name) if constant is None else constant.shape
