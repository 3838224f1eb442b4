"""Cuts of a network: a full graph that also returns tensors at a cut, and a shallow one that takes them.

Fed with fresh tensors, the shallow graph gives the full one's output. No torch is needed, and any graph is cut so: a
prepared float32 body, or an int8 body as it is deployed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fewstep.calibration.lowering.coverage import macs
from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.types import infer_types


@dataclass(frozen=True)
class Pair:
    """`full` returns `tensors` beside its output, and `shallow` takes them."""

    full: Graph
    shallow: Graph
    tensors: tuple[str, ...]


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


def switched(graph: Graph, tensors: Sequence[str], like: Graph | None = None) -> Graph:
    """The graph with a switch at each of the tensors: where `taken(NAME)` is true, `carried(NAME)` goes on instead of
    what the graph computes. It returns what went on. One session then serves every choice of tensors."""
    types = infer_types(like or graph).values
    nodes = list[Node]()
    for node in graph.nodes:
        own = {name: f"computed({name})" for name in node.outputs if name in tensors}
        nodes.append(replace(node, outputs=tuple(own.get(name, name) for name in node.outputs)))
        nodes += [Node("Where", (f"taken({name})", f"carried({name})", own[name]), (name,)) for name in own]
    flags = [Value(f"taken({name})", np.dtype(bool), ()) for name in tensors]
    ports = [replace(types[name], name=f"carried({name})", shape=_free(types[name])) for name in tensors]
    outputs = (*graph.outputs, *(types[name] for name in tensors))
    return replace(graph, inputs=(*graph.inputs, *flags, *ports), outputs=outputs, nodes=tuple(nodes), described=())


def _free(value: Value) -> tuple[str, ...]:
    """A shape that a single number has, too."""
    return tuple(f"any_{axis}" for axis in range(len(value.shape)))


def branches(graph: Graph, x: str = "x") -> tuple[str, ...]:
    """What the residual blocks of a transformer add, in their order, before it is gated by a row (adaLN-zero).

    A block's sum adds what products of matrices made of its other input. A step that takes what all blocks from one to
    another add leaves these blocks out.
    """
    types, heavy = infer_types(graph).values, {name for name, count in macs(graph).items() if count}
    behind: dict[str, frozenset[str]] = {x: frozenset([x])}
    producers = {name: node for node in graph.nodes for name in node.outputs}
    added = list[str]()
    for node in graph.nodes:
        sources = frozenset().union(*(behind.get(name, frozenset()) for name in node.inputs))
        for name in node.outputs if sources else ():
            behind[name] = sources | {name}
        if node.op != "Add" or not all(name in behind and name in types for name in node.inputs):
            continue
        for base, branch in (node.inputs, node.inputs[::-1]):
            is_block = base in behind[branch] and heavy & (behind[branch] - behind[base])
            if is_block and types[base].shape == types[branch].shape:
                gate = producers[branch]
                inner = [name for name in gate.inputs if name in behind] if gate.op == "Mul" else []
                added.append(inner[0] if len(inner) == 1 else branch)
    return tuple(added)


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
