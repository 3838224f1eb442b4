"""Cuts of a network: a full graph that also returns tensors at a cut, and a shallow one that takes them.

Fed with fresh tensors, the shallow graph gives the full one's output. No torch is needed, and any graph is cut so: a
prepared float32 body, or an int8 body as it is deployed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.types import infer_types
from fewstep.lowering.coverage import macs

DIFFERENCE = "residual_of_the_middle"
LARGEST = 0.75  # share of the multiplications: a cut that leaves more saves too little


@dataclass(frozen=True)
class Pair:
    """`full` returns `tensors` beside its output, and `shallow` takes them."""

    full: Graph
    shallow: Graph
    tensors: tuple[str, ...]

    @property
    def share(self) -> float:
        """The share of the multiply-accumulates that the shallow graph has."""
        return sum(macs(self.shallow).values()) / sum(macs(self.full).values())


def cut(graph: Graph, tensors: Sequence[str], like: Graph | None = None) -> Pair:
    """The graph cut at some of its tensors [B, ...]. like: the float32 graph that an int8 one was lowered from, whose
    shapes can be inferred."""
    types = infer_types(like or graph).values
    ports = tuple(types[name] for name in tensors)
    nodes = _behind(graph, tensors)
    read = {name for node in nodes for name in node.inputs}
    inputs = tuple(value for value in graph.inputs if value.name in read)
    shallow = replace(graph, inputs=(*inputs, *ports), nodes=nodes, described=())
    return Pair(replace(graph, outputs=(*graph.outputs, *ports)), drop_unused(shallow), tuple(tensors))


def residual_cut(graph: Graph, early: str, late: str) -> Pair:
    """A chain of residual blocks without those between two of its states of one shape. What they add is carried: the
    shallow graph has the early state with the carried difference in the place of the late one."""
    types = infer_types(graph).values
    port = Value(DIFFERENCE, types[late].dtype, types[late].shape)
    difference = Node("Sub", (late, early), (DIFFERENCE,))
    full = replace(graph, nodes=(*graph.nodes, difference), outputs=(*graph.outputs, port))
    added = Node("Add", (early, DIFFERENCE), (late,))
    ahead = _behind(replace(graph, outputs=(types[early],)), ())
    behind = tuple(node for node in _behind(graph, (late,)) if node not in ahead)
    nodes = (*ahead, added, *behind)
    read = {name for node in nodes for name in node.inputs}
    inputs = (*(value for value in graph.inputs if value.name in read), port)
    return Pair(full, drop_unused(replace(graph, inputs=inputs, nodes=nodes, described=())), (DIFFERENCE,))


def single_cuts(graph: Graph, x: str = "x") -> dict[str, float]:
    """The tensors at which x still reaches the output around the cut, with the share of multiply-accumulates that is
    left, where that is at most LARGEST. Of those with one share the smallest comes first."""
    types, inputs = infer_types(graph).values, {value.name for value in graph.inputs}
    whole, found = macs(graph), dict[str, tuple[float, int]]()
    for name in dict.fromkeys(name for node in graph.nodes for name in node.outputs):
        value = types.get(name)
        if value is None or len(value.shape) < 2 or value.shape[0] != "batch" or name in inputs:
            continue
        if not all(isinstance(size, int) for size in value.shape[1:]) or value.dtype.kind != "f":
            continue
        nodes = _behind(graph, (name,))
        if not any(x in node.inputs for node in nodes):
            continue
        share = sum(whole.get(output, 0) for node in nodes for output in node.outputs) / sum(whole.values())
        if share <= LARGEST:
            size = 1
            for length in value.shape[1:]:
                size *= int(length)
            found[name] = share, size
    return {name: found[name][0] for name in sorted(found, key=lambda name: found[name])}


def encoder_cut(graph: Graph) -> tuple[str, ...]:
    """The outputs of a U-Net's encoder: what its Concats join from there (Faster Diffusion: Li et al. 2023, arXiv
    2312.09608). The decoder, fed with them, sees no x."""
    made = {name for node in graph.nodes for name in node.outputs}
    joins = [node for node in graph.nodes if node.op == "Concat" and node.attributes.get("axis") == 1]
    return tuple(dict.fromkeys(node.inputs[1] for node in joins if len(node.inputs) == 2 and made >= {*node.inputs}))


def _behind(graph: Graph, sources: Sequence[str]) -> tuple[Node, ...]:
    """The nodes that make the graph's outputs once `sources` are there."""
    needed, kept = {value.name for value in graph.outputs} - {*sources}, list[Node]()
    for node in reversed(graph.nodes):
        if needed & {*node.outputs}:
            kept.append(node)
            needed |= {*node.inputs} - {*sources}
    return tuple(reversed(kept))
