"""A graph of any outputs in an engine of this GPU, built to look at it and then thrown away."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from fewstep.engines.built import built
from fewstep.graph.describe import describe
from fewstep.graph.graph import Graph
from fewstep.graph.io import save
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.checks import imported
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda, open_session
from fewstep.runtime.backends.tensorrt import TensorRt

SETTINGS = {"use_tf32": "0"}
GRAPH = "watched.onnx"


def on_tensorrt(backend: TensorRt, graph: Graph) -> LoadedGraph:
    """The graph, whose inputs have fixed shapes, as an engine of TensorRT. UserError if it cannot be built."""
    program = built(backend, graph, is_kept=False)
    return backend.open(program, describe(graph, GRAPH), graph.name, backend.here().device, "fewstep verify --engines")


def on_cuda(backend: OnnxRuntimeCuda, graph: Graph) -> Callable[[Arrays], Arrays]:
    """The graph on ONNX Runtime's CUDA provider. UserError if it does not start."""
    onnxruntime = imported("onnxruntime", "onnxruntime", "pip install 'fewstep[gpu]'")
    with tempfile.TemporaryDirectory() as name:
        save(graph, Path(name) / GRAPH)
        settings = SETTINGS | ({"device_id": str(backend.device)} if backend.device else {})
        session = open_session(onnxruntime, Path(name) / GRAPH, (PROVIDER, settings))
    names = [value.name for value in graph.outputs]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
