"""Run a Graph in onnxruntime: how passes fold, tests compare and export verifies."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnxruntime as ort

from fewstep.graph.graph import Array, Graph
from fewstep.graph.io import EXTERNAL_ABOVE, save
from fewstep.runtime.errors import UserError


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
        given = {name: value for name, value in feeds.items() if name in self._inputs}
        with explained("run the graph"):
            values: list[Any] = self._session.run(None, given)
        return dict(zip(self._outputs, values, strict=True))


def open_session(graph: Graph, also: Iterable[str] = (), optimize: bool = False) -> Session:
    """A session that returns the graph's outputs and the inner tensors `also`.

    It computes the graph as written; `optimize` lets onnxruntime fuse, as a deployed session does.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # fatal only: what fails is raised as well, and told once
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # several sessions take turns with torch
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    with tempfile.TemporaryDirectory() as folder:
        # through a file, since large weights do not fit into one message
        path = Path(folder) / "graph.onnx"
        save(graph, path, EXTERNAL_ABOVE, also)
        with explained("load the graph"):
            return Session(ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


@contextmanager
def explained(verb: str, fix: str = "write the operation it names differently, in float32") -> Iterator[None]:
    """What onnxruntime cannot do, in one line. Its exceptions share no base class but Exception."""
    try:
        yield
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"onnxruntime {ort.__version__} cannot {verb}: {reason}", fix) from error
