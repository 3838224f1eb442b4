"""Store probes of the exported graphs, by which other machines check their engines (`runtime/backends/probe.py`)."""

import msgspec
import numpy as np

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.export.spec import Spec
from fewstep.graph.files.commit import Writer
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.probe import measure_probe
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.kinds.sizes import default_sizes

MOST_MACS = 10**9  # multiply-accumulates of a sample; a processor core takes about 30 ms for one of the two calls


def add_probe(writer: Writer, entry: GraphEntry, graph: Graph | None, spec: Spec) -> GraphEntry:
    """Return the entry of a graph with its probe, computed by onnxruntime on one thread.

    Graphs of more than `MOST_MACS` get none, because every machine would run them at the first load. Neither do graphs
    that compute in float16, which engines round differently, nor those whose outputs are not finite for synthetic
    inputs.
    """
    if graph is None or not _is_small(graph) or any(array.dtype == np.float16 for array in graph.constants.values()):
        return entry
    try:
        network = OnnxRuntime(threads=1).open(writer.bundle / entry.file)
        probe = measure_probe(entry, network, default_sizes(spec.x_shape, spec.sizes))
    except UserError:  # synthetic inputs may be outside of what the network accepts
        return entry
    return msgspec.structs.replace(entry, probe=probe) if np.isfinite(probe).all() else entry


def _is_small(graph: Graph) -> bool:
    try:
        return sum(count_operation_macs(graph).values()) <= MOST_MACS
    except UserError:  # a shape is unknown
        return False
