"""Which bodies may run graphs of their own in the place of shared ones, and graphs with weights as integers."""

from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.recipe import OtherGraph
from fewstep.calibration.precision.stored_weights import RoundedWeights
from fewstep.calibration.ranges.moments import Moments
from fewstep.graph.graph import Graph
from fewstep.graph.passes.stored_embeddings import store_embeddings
from fewstep.graph.passes.stored_weights import can_have_4_bits, select_stored_ops
from fewstep.runtime.bundle.platforms import ONNXRUNTIME


def store_graph(graph: Graph, bits: int, moments: Moments | None = None) -> OtherGraph:
    """Return a graph with its weights in 8 bits, or those of matrix products in 4 bits."""
    coarse = {op.code: 4 if bits == 4 and can_have_4_bits(op, graph) else 8 for op in select_stored_ops(graph)}
    return OtherGraph(store_embeddings(RoundedWeights(graph, moments or {}).store(coarse) if coarse else graph))


def has_own_graphs(target: Target) -> bool:
    """Return whether bodies of a target may run graphs of their own in the place of shared ones: those for CPUs, and
    those of weights alone."""
    is_for_cpu = target.platform.backend == ONNXRUNTIME or target.companions is not None
    return is_for_cpu or target.scheme.weight_bits is not None


def has_weights_to_store(graph: Graph) -> bool:
    """Return whether a graph has a weight or a table of embeddings that `store_graph` stores."""
    return bool(select_stored_ops(graph)) or store_embeddings(graph) is not graph


def describe_share(share: float) -> str:
    """Return a share as text. One that would read as zero is "less than 0.1 %"."""
    return f"{100 * share:.1f} %" if share >= 0.001 else "less than 0.1 %"
