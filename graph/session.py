"""Run a Graph in onnxruntime: how passes fold, tests compare and export verifies."""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import onnxruntime as ort

from fewstep.graph.graph import Array, Graph
from fewstep.graph.io import EXTERNAL_ABOVE, save


def run(graph: Graph, feeds: Mapping[str, Array], also: Iterable[str] = ()) -> dict[str, Array]:
    """Values of the graph's outputs, and of the inner tensors `also`, for the given inputs."""
    return open_session(graph, also)(feeds)


class Session:
    """A graph opened once and run many times, on the CPU."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._inputs = {value.name for value in session.get_inputs()}
        self._outputs = [value.name for value in session.get_outputs()]

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. Feeds the graph does not take are left out, so one dict serves several graphs."""
        values: list[Any] = self._session.run(None, {k: v for k, v in feeds.items() if k in self._inputs})
        return dict(zip(self._outputs, values, strict=True))


def open_session(graph: Graph, also: Iterable[str] = (), optimize: bool = False) -> Session:
    """A session that returns the graph's outputs and the inner tensors `also`.

    It computes the graph as written; `optimize` lets onnxruntime fuse, as a deployed session does.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several sessions take turns with torch
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        # through a file, since large weights do not fit into one message
        path = Path(folder) / "graph.onnx"
        save(graph, path, EXTERNAL_ABOVE, also)
        return Session(ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
