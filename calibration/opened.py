"""A lowered graph opened to be judged, as near to its deployment as this machine comes.

onnxruntime's own graphs run as they are deployed, and OpenVINO's on its CPU plugin. Those of other engines run in
onnxruntime with their pairs left where they stand: their 8-bit rounding, and float32 for the rest.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.graph.graph import Array, Graph
from fewstep.graph.io import exceeds, save
from fewstep.graph.session import open_session
from fewstep.lowering.agreement import as_deployed
from fewstep.lowering.scheme import Target
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.named import named
from fewstep.runtime.backends.openvino import OpenVino, last_line, read, version


def open_lowered(graph: Graph, target: Target) -> LoadedGraph:
    """The graph of this target, which takes no notice of feeds that it has no input for."""
    backend = None if target.engine is None else named(target.platform.backend)
    if isinstance(backend, OpenVino):
        return OnOpenVino(graph, backend, target.name)
    if target.engine is as_deployed:
        return open_session(graph, optimize=True, arena=True)
    is_small = not exceeds(graph)  # a large one, folded, would take as much as float32's weights, packed twice as much
    return open_session(graph, optimize=is_small, arena=is_small, fuse_qdq=False)


class OnOpenVino:
    """A graph on OpenVINO's CPU plugin, compiled for each batch that it meets."""

    def __init__(self, graph: Graph, backend: OpenVino, target: str) -> None:
        self._name, self._backend, self._target = graph.name, replace(backend, cached=False), target
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)  # which what is compiled reads from
        self._path = Path(self._folder.name) / "graph.onnx"
        save(graph, self._path)
        self._names = tuple(value.name for value in graph.inputs)
        self._outputs = tuple(value.name for value in graph.outputs)
        self._requests: dict[tuple[tuple[int, ...], ...], Any] = {}

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        inputs = {name: feeds[name] for name in self._names}
        shapes = tuple(value.shape for value in inputs.values())
        if shapes not in self._requests:
            self._requests[shapes] = self._compiled(dict(zip(inputs, map(list, shapes), strict=True)))
        try:
            results = self._requests[shapes].infer(inputs)
        except Exception as error:  # its errors share no base class but Exception
            raise UserError(
                f"OpenVINO {version()} failed on graph {self._name!r}: {last_line(error)}",
                f"pip install --upgrade openvino, or calibrate without target {self._target}",
            ) from error
        return {name: np.array(results[name]) for name in self._outputs}

    def _compiled(self, shapes: Mapping[str, list[int]]) -> Any:
        core = self._backend.core()
        return self._backend.compile(core, read(core, self._path), self._name, shapes).create_infer_request()
