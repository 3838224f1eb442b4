"""How a lowered graph is run: by the engine it is for, or with its rounding alone simulated."""

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import Graph
from fewstep.graph.io import save
from fewstep.graph.session import open_session
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.backends.onnxruntime import OnnxRuntime


def deployed(graph: Graph) -> LoadedGraph:
    """onnxruntime, fusing as a deployed session does."""
    return open_session(graph, optimize=True)


def simulated(graph: Graph) -> LoadedGraph:
    """onnxruntime with every pair left in float: rounding to 8 bits where pairs stand, and nowhere else."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        save(graph, path)
        session = OnnxRuntime(spinning=False, fuse_qdq=False).open(path)
    return lambda feeds: session(_taken(graph, feeds))


def on_openvino(graph: Graph) -> LoadedGraph:
    """OpenVINO's CPU plugin, compiled for each batch that comes, as its backend does."""
    from fewstep.runtime.backends.openvino import OpenVino, read  # an extra of its own

    folder = TemporaryDirectory()
    path = Path(folder.name) / "graph.onnx"
    save(graph, path)
    backend = OpenVino(cached=False)
    core = backend.core()
    model = read(core, path)
    output = graph.outputs[0].name
    compiled = {}

    def network(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        given = _taken(graph, feeds)
        shapes = {name: list(value.shape) for name, value in given.items()}
        batch = shapes[graph.inputs[0].name][0]
        if batch not in compiled:
            compiled[batch] = backend.compile(core, model, graph.name, shapes)
        return {output: compiled[batch](given)[output].copy()}

    network.folder = folder  # type: ignore[attr-defined]  # the model reads its file as long as it lives
    return network


def _taken(graph: Graph, feeds: Arrays) -> dict[str, NDArray[np.generic]]:
    """The feeds that the graph has inputs for: one without groups takes no group."""
    return {value.name: feeds[value.name] for value in graph.inputs}
