"""Compare each engine of this machine with onnxruntime, on equal inputs.

Engines are loaded as the runtime loads them, so the comparison covers what a product runs.
"""

from collections.abc import Collection, Iterator, Sequence

import msgspec

from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.measure.body_backends import is_run_by_onnxruntime
from fewstep.measure.simulation import Simulation
from fewstep.plans.errors import UserError
from fewstep.report.choosing.engines import LARGEST, REFERENCE
from fewstep.report.engines.comparison_feeds import comparison_feeds
from fewstep.report.engines.differences import DifferentLayer, EngineComparison, NotCompared
from fewstep.report.engines.first_difference import find_first_difference, find_inner_opener
from fewstep.report.engines.htp_comparison import compare_in_htp
from fewstep.runtime.backends import RUN_ONCE, Arrays, Backend, LoadedGraph, find_graph, graph_names
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.openvino_agreement import relative_difference
from fewstep.runtime.backends.qnn import Qnn
from fewstep.runtime.backends.registry import NAMED, create_backend
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.machine.gpu import has_gpu
from fewstep.runtime.progress import SILENT, Progress

CUDA = "onnxruntime-cuda"
CALLS = 2  # number of calls, with different inputs, in the first and in the last range group


def compare_engines(
    bundle: Bundle,
    progress: Progress = SILENT,
    backends: Sequence[str] = (),
    graphs: Collection[str] = (),
) -> Iterator[EngineComparison | NotCompared]:
    """Compare graphs of the bundle in other engines of this machine. Default: all graphs in every engine."""
    others = [name for name in backends or NAMED if name != REFERENCE]
    for done, name in enumerate(others, 1):
        backend = create_backend(name)
        reasons: set[str] = set()
        for graph in _graph_names(bundle, backend):
            if graphs and graph not in graphs:
                continue
            try:
                network = _open_graph(backend, bundle, graph)
                if isinstance(backend, Qnn) and graph not in RUN_ONCE:
                    yield compare_in_htp(bundle, graph, network)
                elif isinstance(backend, OnnxRuntimeCuda) or not isinstance(network, Session):  # else the CPU runs it
                    yield _compare_graph(bundle, name, backend, graph, network)
            except UserError as error:
                reason = str(error) if name != CUDA or has_gpu() else f"{error.what}, and nvidia-smi lists no GPU"
                if reason not in reasons:  # report a missing part once, not for each graph
                    yield NotCompared(name, reason)
                reasons.add(reason)
        progress("engines", done, len(others))


def _graph_names(bundle: Bundle, backend: Backend) -> Iterator[str]:
    """Yield the names of the graphs that a backend would run: conditioner, prologue, and the bodies for it."""
    yield from (name for name in RUN_ONCE if getattr(bundle.manifest, name) is not None)
    for name in dict.fromkeys(body for bodies in backend.bodies.values() for body in bodies):
        if (body := bundle.manifest.bodies.get(name)) is not None:
            yield from graph_names(name, body)


def _open_graph(backend: Backend, bundle: Bundle, name: str) -> LoadedGraph:
    """Load the graph as the runtime does. For OpenVINO, skip the check that refuses a wrong graph, to compare it."""
    return backend.open(bundle, name) if isinstance(backend, OpenVino) else backend.load(bundle, name)


def _compare_graph(bundle: Bundle, name: str, backend: Backend, graph: str, network: LoadedGraph) -> EngineComparison:
    entry = find_graph(bundle, graph)
    precision, simulated = "float32", False
    if graph not in RUN_ONCE:
        body = bundle.body(graph.partition("/")[0])
        precision, simulated = body.precision, not is_run_by_onnxruntime(body)
    calls = [comparison_feeds(bundle, entry, network, seed) for seed in range(CALLS)]
    reference = (Simulation() if simulated else OnnxRuntime()).load_graph(bundle, entry)
    is_bf16 = isinstance(backend, OpenVino) and backend.float_type == "bf16"
    limit = LARGEST["int8" if is_bf16 else precision]  # both have about 8 significant bits
    difference = max(relative_difference(reference(feeds), network(feeds)) for feeds in calls)
    comparison = EngineComparison(name, graph, len(calls), difference, limit)
    if comparison.agrees:
        return comparison
    try:
        layer, unknown = _find_different_layer(io.load(bundle.graph(entry), root=bundle.path), backend, calls, limit)
    except UserError as error:  # an engine with all tensors as outputs is built differently, and may fail
        layer, unknown = None, str(error)
    return msgspec.structs.replace(comparison, layer=layer, unknown=unknown)


def _find_different_layer(
    graph: Graph, backend: Backend, calls: Sequence[Arrays], limit: float
) -> tuple[DifferentLayer | None, str]:
    """Return the first layer that differs in any of the calls, or None and the reason."""
    inner = find_inner_opener(backend)
    if inner is None:
        return None, "this backend does not expose inner tensors"
    layers = (find_first_difference(graph, inner, feeds, limit) for feeds in calls)
    layer = next((layer for layer in layers if layer is not None), None)
    return layer, "" if layer is not None else "no inner tensor differs"
