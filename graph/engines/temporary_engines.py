"""Temporary engines for this GPU, for graphs that return their inner tensors."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from fewstep.graph.describe import describe
from fewstep.graph.engines.build_engine import request, run_worker, timing_cache
from fewstep.graph.engines.builders import STRICT, builder_of
from fewstep.graph.files.io import save
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.checks import import_package
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda, open_session, provider_settings
from fewstep.runtime.backends.tensorrt import TensorRt

GRAPH, AGAIN = "watched.onnx", "fewstep verify --engines"
TIMEOUT = 3600.0  # seconds
OTHER = "run it on another backend"


def open_on_tensorrt(backend: TensorRt, graph: Graph) -> LoadedGraph:
    """Build and open a graph with fixed input shapes as a TensorRT engine. Raises UserError if it cannot be built."""
    program, device = _build_program(backend, graph), backend.engine_facts().device
    return backend.open(program, describe(graph, GRAPH), graph.name, device, AGAIN, is_kept=False)


def open_on_cuda(backend: OnnxRuntimeCuda, graph: Graph) -> Callable[[Arrays], Arrays]:
    """Open a graph with ONNX Runtime's CUDA provider. Raises UserError if it does not start."""
    onnxruntime = import_package("onnxruntime", "onnxruntime", "pip install 'fewstep[gpu]'")
    with tempfile.TemporaryDirectory() as name:
        save(graph, Path(name) / GRAPH)
        session = open_session(onnxruntime, Path(name) / GRAPH, (PROVIDER, provider_settings(backend.device)))
    names = [value.name for value in graph.outputs]

    def run(feeds: Arrays) -> Arrays:
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no base class but Exception; memory may be short
            raise UserError(
                f"{graph.name!r} fails with its inner tensors as outputs: {first_line(error)}", "free memory"
            ) from error

    return run


def _build_program(backend: TensorRt, graph: Graph) -> bytes:
    """Build the engine of a graph with fixed input shapes, for this machine's GPU."""
    builder, here = builder_of(backend.name), backend.engine_facts()
    shapes = {value.name: [[*map(int, value.shape)]] * 3 for value in graph.inputs}
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / GRAPH
        engine, asked, timing = (file.with_suffix(suffix) for suffix in (".engine", ".json", ".timing"))
        save(graph, file)
        with timing_cache(builder, here, timing) as measured:
            content = request(builder, here.device, shapes, STRICT, timing_cache=measured)
            asked.write_text(json.dumps(content, default=str))
            what = f"{graph.name!r} for {here.device}"
            run_worker([*map(str, (file, engine, asked))], what, TIMEOUT, builder.name, OTHER, OTHER)
        return engine.read_bytes()
