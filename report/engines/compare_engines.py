"""Compare each engine of this machine with onnxruntime, on equal inputs.

Engines are loaded as the runtime loads them, so the comparison covers what a product runs.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from fewstep.graph.files import io
from fewstep.graph.graph import Graph
from fewstep.measure.body_backends import is_run_by_onnxruntime
from fewstep.measure.open_body import open_body
from fewstep.measure.rollouts.plan_selection import select_plan
from fewstep.measure.simulation import Simulation
from fewstep.measure.speed.mean_step import middle_feeds, select_feeds
from fewstep.plans.errors import UserError
from fewstep.plans.plan import DENOISER
from fewstep.report.choosing.engines import LARGEST, REFERENCE
from fewstep.report.engines.differences import DifferentLayer, EngineComparison, NotCompared
from fewstep.report.engines.first_difference import find_first_difference, find_inner_opener
from fewstep.runtime.backends import RUN_ONCE, Arrays, Backend, LoadedGraph, find_graph, graph_names
from fewstep.runtime.backends.batch_splitting import BatchSplitter
from fewstep.runtime.backends.onnxruntime import OnnxRuntime, Session
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.openvino_agreement import random_feeds, relative_difference
from fewstep.runtime.backends.qnn import Qnn
from fewstep.runtime.backends.registry import NAMED, create_backend
from fewstep.runtime.backends.tensorrt_engine import BATCH, LoadedEngine
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.platforms import QNN
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import default_sizes
from fewstep.runtime.machine.gpu import has_gpu
from fewstep.runtime.progress import SILENT, Progress

CUDA = "onnxruntime-cuda"
CALLS = 2  # number of calls, with different inputs, in the first and in the last range group
HTP = 1e-3  # 60 dB: standard deviation of the difference, relative to the output's
HTP_8BIT = 3e-2  # the same for 8-bit inputs, whose neighbouring codes differ by 40 dB
ROWS = 2  # rows of a call, unless the engine prefers another number


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
                    yield _compare_in_htp(bundle, graph, network)
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
    calls = [_feeds(bundle, entry, network, seed) for seed in range(CALLS)]
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


def _compare_in_htp(bundle: Bundle, graph: str, network: LoadedGraph) -> EngineComparison:
    """Compare an all-integer body with ONNX's arithmetic, on its inputs at the middle step of its plan."""
    name = graph.partition("/")[0]
    sampler, entry = open_body(bundle, name, threads=0), find_graph(bundle, graph)
    feeds = select_feeds(entry, middle_feeds(sampler, select_plan(sampler, bundle.body(name)), 1)[DENOISER])
    expected, computed = OnnxRuntime(fuse_qdq=False).load_graph(bundle, entry)(feeds), network(feeds)
    limit = HTP if bundle.body(name).target == QNN.name else HTP_8BIT
    ratios = [np.std(computed[out] - each) / np.std(each) for out, each in expected.items()]
    return EngineComparison(QNN.name, graph, 1, float(max(ratios)), limit)


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


def _feeds(bundle: Bundle, entry: GraphEntry, network: LoadedGraph, seed: int) -> dict[str, Any]:
    """Return random inputs for a seed, at sizes that the engine takes: in the first range group for seed 0, else in the
    last."""
    engine = network.network if isinstance(network, BatchSplitter) else network
    rows = engine.tensors.preferred_sizes[BATCH] if isinstance(engine, LoadedEngine) else ROWS
    sizes = {BATCH: rows, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
    feeds: dict[str, Any] = random_feeds(entry, sizes, seed)
    groups = {len(body.groups) for body in bundle.manifest.bodies.values() if entry in body.graphs}
    for tensor in entry.inputs:
        if tensor.role == "group":
            feeds[tensor.name][...] = max(groups, default=0) if seed else 0
    return feeds
