"""From an exported graph to the prepared one, which ranges are measured on and every target is lowered from."""

from dataclasses import replace

from fewstep.graph.graph import Graph
from fewstep.graph.passes.affine import merge_affine
from fewstep.graph.passes.attention import simplify_attention
from fewstep.graph.passes.bias import separate_bias
from fewstep.graph.passes.concat import split_concat
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.identities import drop_identities, merge_layout
from fewstep.graph.passes.shapes import fold_shapes
from fewstep.graph.prologue import Prepared, cut_prologue

PASSES = (
    fold_constants,
    fold_shapes,
    drop_identities,
    merge_layout,
    simplify_attention,
    split_concat,
    separate_bias,
    merge_affine,
    drop_unused,
)
ROUNDS = 50  # far above what a graph needs: each round shortens the chains that are left


def simplify(graph: Graph) -> Graph:
    """Apply all passes until none finds anything left to do."""
    for _ in range(ROUNDS):
        before = graph
        for rewrite in PASSES:
            graph = rewrite(graph)
        if graph.nodes == before.nodes:
            break
    return graph


def prepare(graph: Graph) -> Prepared:
    """Simplify a graph and cut its prologue; both sides are simplified again, since the cut makes chains inner."""
    prepared = cut_prologue(simplify(graph))
    prologue = simplify(prepared.prologue) if prepared.prologue else None
    return replace(prepared, prologue=prologue, body=simplify(prepared.body))
