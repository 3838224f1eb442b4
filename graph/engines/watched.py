"""Engines of this GPU that show a graph's inner tensors; they are built for one look and not kept."""

import tempfile
from collections.abc import Callable
from pathlib import Path

from fewstep.graph.describe import describe
from fewstep.graph.engines.built import built
from fewstep.graph.graph import Graph
from fewstep.graph.io import save
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.checks import imported
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda, open_session, provider_settings
from fewstep.runtime.backends.tensorrt import TensorRt

GRAPH, AGAIN = "watched.onnx", "fewstep verify --engines"


def on_tensorrt(backend: TensorRt, graph: Graph) -> LoadedGraph:
    """The graph as an engine of TensorRT; its inputs have fixed shapes. UserError if it cannot be built."""
    program = built(backend, graph, is_kept=False)
    return backend.open(program, describe(graph, GRAPH), graph.name, backend.here().device, AGAIN, is_kept=False)


def on_cuda(backend: OnnxRuntimeCuda, graph: Graph) -> Callable[[Arrays], Arrays]:
    """The graph on ONNX Runtime's CUDA provider. UserError if it does not start."""
    onnxruntime = imported("onnxruntime", "onnxruntime", "pip install 'fewstep[gpu]'")
    with tempfile.TemporaryDirectory() as name:
        save(graph, Path(name) / GRAPH)
        session = open_session(onnxruntime, Path(name) / GRAPH, (PROVIDER, provider_settings(backend.device)))
    names = [value.name for value in graph.outputs]

    def run(feeds: Arrays) -> Arrays:
        try:
            return dict(zip(names, session.run(names, dict(feeds)), strict=True))
        except Exception as error:  # its exceptions share no base class but Exception; memory may be short
            raise UserError(
                f"{graph.name!r} with its inner tensors fails: {first_line(error)}", "free memory"
            ) from error

    return run
