"""A graph of any outputs in an engine of this GPU, built to look at it and then thrown away."""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path

from fewstep.engines.build_engine import run_worker
from fewstep.engines.builders import STRICT, builder_of
from fewstep.graph.describe import describe
from fewstep.graph.graph import Graph
from fewstep.graph.io import save
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.checks import imported
from fewstep.runtime.backends.onnxruntime_cuda import PROVIDER, OnnxRuntimeCuda, open_session
from fewstep.runtime.backends.tensorrt import TensorRt

TIMEOUT = 3600.0  # seconds
SETTINGS = {"use_tf32": "0"}
GRAPH, ENGINE, REQUEST = "watched.onnx", "watched.engine", "watched.json"


def on_tensorrt(backend: TensorRt, graph: Graph) -> LoadedGraph:
    """The graph, whose inputs have fixed shapes, as an engine of TensorRT. UserError if it cannot be built."""
    builder, here = builder_of(backend.name), backend.here()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save(graph, folder / GRAPH)
        request = {
            "module": builder.module,
            "shapes": {value.name: [value.shape] * 3 for value in graph.inputs},
            "flags": STRICT,
            "compute_capability": here.device.upper() if builder.devices else None,
            "timing_cache": None,
            "layers": None,
        }
        (folder / REQUEST).write_text(json.dumps(request))
        files = [str(folder / each) for each in (GRAPH, ENGINE, REQUEST)]
        run_worker(files, f"{graph.name!r} with its inner tensors", TIMEOUT, builder.name)
        program = (folder / ENGINE).read_bytes()
    return backend.open(program, describe(graph, GRAPH), graph.name, here.device, "fewstep verify --engines")


def on_cuda(backend: OnnxRuntimeCuda, graph: Graph) -> Callable[[Arrays], Arrays]:
    """The graph on ONNX Runtime's CUDA provider. UserError if it does not start."""
    onnxruntime = imported("onnxruntime", "onnxruntime", "pip install 'fewstep[gpu]'")
    with tempfile.TemporaryDirectory() as name:
        save(graph, Path(name) / GRAPH)
        settings = SETTINGS | ({"device_id": str(backend.device)} if backend.device else {})
        session = open_session(onnxruntime, Path(name) / GRAPH, (PROVIDER, settings))
    names = [value.name for value in graph.outputs]
    return lambda feeds: dict(zip(names, session.run(names, dict(feeds)), strict=True))
