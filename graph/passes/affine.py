"""Merge scales and shifts, so that at most one Mul and one Add follow each normalization."""

from dataclasses import replace

from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node, X
from fewstep.graph.index import Index, index
from fewstep.graph.types import Types, infer_types


def merge_affine(graph: Graph) -> Graph:
    """Merge factors and terms that do not depend on x. The prologue then computes their product or sum.

        (n * a) * c      ==>      n * (a * c)
        (n * a + b) * c  ==>      n * (a * c) + b * c
        (n + b) + d      ==>      n + (b + d)

    The scale and shift of a GroupNorm and the adaptive ones after it become one Mul and one Add. Results are equal up
    to float32 rounding.
    """
    idx, types, new = index(graph), infer_types(graph), NewNodes(graph)
    moving = idx.dependents([X])
    # bypassed nodes remain until `drop_unused`, so rewrites may overlap
    return graph.with_nodes(
        replacement for node in graph.nodes for replacement in _rewrite(node, idx, types, moving, new) or (node,)
    )


def _rewrite(node: Node, idx: Index, types: Types, moving: frozenset[str], new: NewNodes) -> tuple[Node, ...]:
    """Return the nodes that replace a node; an empty tuple if it stays. `moving` are the tensors that depend on x."""
    if node.op not in ("Mul", "Add") or node.domain:
        return ()
    main, term = _split_operands(node, moving)
    inner = idx.producers.get(main)
    if not main or inner is None or inner.op not in ("Mul", "Add") or inner.domain or not idx.is_inner(main):
        return ()
    inner_main, inner_term = _split_operands(inner, moving)
    if not inner_main or not _can_combine(inner_term, term, types):
        return ()
    if inner.op == node.op:
        joined = new.name(f"{node.output}_{node.op.lower()}")
        return (Node(node.op, (inner_term, term), (joined,)), replace(node, inputs=(inner_main, joined)))
    base = idx.producer(inner_main, "Mul") if node.op == "Mul" else None
    if base is None or not idx.is_inner(inner_main) or not _split_operands(base, moving)[0]:
        return ()  # (n + b) * c gains nothing unless n has a factor that absorbs c
    scaled, joined = new.name(f"{node.output}_scaled"), new.name(f"{node.output}_mul")
    return (
        Node("Mul", (inner_main, term), (scaled,)),
        Node("Mul", (inner_term, term), (joined,)),
        Node("Add", (scaled, joined), node.outputs, name=node.name),
    )


def _split_operands(node: Node, moving: frozenset[str]) -> tuple[str, str]:
    """Return (the operand that depends on x, the operand that does not), or empty names."""
    left, right = node.inputs
    if (left in moving) == (right in moving):
        return "", ""
    return (left, right) if left in moving else (right, left)


def _can_combine(a: str, b: str, types: Types) -> bool:
    """Return True if combining a and b gives a tensor no larger than one of them, such as for two scales of the same
    channels."""
    shapes = [types.shape(a), types.shape(b)]
    if shapes[0] is None or shapes[1] is None:
        return False
    rank = max(len(shape) for shape in shapes if shape is not None)
    left, right = ((1,) * (rank - len(shape)) + tuple(shape) for shape in shapes if shape is not None)
    pairs = list(zip(left, right, strict=True))
    return all(p == q or q == 1 for p, q in pairs) or all(p == q or p == 1 for p, q in pairs)
