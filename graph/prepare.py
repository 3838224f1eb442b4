"""Prepare an exported graph. Ranges are measured on the prepared graph, and every target is lowered from it."""

from dataclasses import replace

from fewstep.graph.cuts.conditioner import cut_conditioner
from fewstep.graph.cuts.prologue import PreparedDenoiser, cut_prologue
from fewstep.graph.graph import Graph
from fewstep.graph.passes.affine import merge_affine
from fewstep.graph.passes.attention import simplify_attention
from fewstep.graph.passes.attention_form import form_attention
from fewstep.graph.passes.average_pool import separate_pool_padding
from fewstep.graph.passes.bias import separate_bias
from fewstep.graph.passes.concat import split_concat
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.conv_transpose import expand_conv_transpose
from fewstep.graph.passes.einsum import expand_einsum
from fewstep.graph.passes.identities import drop_expands, drop_identities, merge_layout
from fewstep.graph.passes.shape_reads import reroute_shape_reads
from fewstep.graph.passes.shapes import fold_shapes

PASSES = (
    fold_constants,
    reroute_shape_reads,
    fold_shapes,
    drop_expands,
    drop_identities,
    expand_einsum,
    merge_layout,
    simplify_attention,
    form_attention,
    expand_conv_transpose,
    split_concat,
    separate_pool_padding,
    separate_bias,
    merge_affine,
    drop_unused,
)
ROUNDS = 50  # far more rounds than a graph needs, since each round shortens the remaining chains


def simplify(graph: Graph) -> Graph:
    """Apply all passes until none changes the graph."""
    for _ in range(ROUNDS):
        before = graph
        for rewrite in PASSES:
            graph = rewrite(graph)
        if graph.nodes == before.nodes:
            break
    return graph


def prepare(graph: Graph) -> PreparedDenoiser:
    """Simplify a graph, cut the prologue off it, and the conditioner off the prologue. Each part is then simplified
    again, because a cut can make two nodes adjacent that can be merged."""
    prepared = cut_prologue(simplify(graph))
    prepared = replace(prepared, body=simplify(prepared.body))
    if prepared.prologue is None:
        return prepared
    cut = cut_conditioner(simplify(prepared.prologue))
    conditioner, prologue = (None if part is None else simplify(part) for part in (cut.conditioner, cut.prologue))
    return replace(prepared, conditioner=conditioner, prologue=prologue)
