"""Run a Graph in onnxruntime, for constant folding, tests and verification."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from fewstep.graph.files import io, weights
from fewstep.graph.graph import Array, Graph
from fewstep.graph.widened import STORED, cast_constants
from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends.checks import path_text
from fewstep.runtime.backends.onnxruntime import WIDE_SUMS
from fewstep.runtime.machine.cpu import engine_threads
from fewstep.runtime.machine.memory_pages import release_free_memory

FOLDER = "session.model_external_initializers_file_folder_path"


def run(graph: Graph, feeds: Mapping[str, Array], also: Iterable[str] = ()) -> dict[str, Array]:
    """Return the values of the graph's outputs, and of the inner tensors `also`, for the given inputs."""
    return open_session(graph, also)(feeds)


class GraphSession:
    """A graph loaded once and run many times on the CPU."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self._session = session
        self._inputs = {value.name for value in session.get_inputs()}
        self._outputs = [value.name for value in session.get_outputs()]

    def __call__(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Return the outputs by name. Feeds that the graph does not read are ignored, so one dict serves several
        graphs."""
        inputs = {name: value for name, value in feeds.items() if name in self._inputs}
        with report_ort_errors("run the graph"):
            values: list[Any] = self._session.run(None, inputs)
        return dict(zip(self._outputs, values, strict=True))


def open_session(
    graph: Graph,
    also: Iterable[str] = (),
    optimize: bool = False,
    arena: bool = False,
    threads: int = 0,
    fuse_qdq: bool = True,
    wide_sums: bool = False,
) -> GraphSession:
    """Return a session that computes the graph's outputs and the inner tensors `also`. By default it computes the graph
    as written.

    optimize: let onnxruntime fuse operations, as a deployed session does.
    arena: allocate memory from an arena, as a deployed session does, for timings. An arena grows by doubling and never
        shrinks.
    threads: number of threads; 0 means `default_threads`.
    fuse_qdq: False computes Q/DQ pairs in float, as `OnnxRuntime(fuse_qdq=False)` does.
    wide_sums: add 8-bit products in 32 bits on every CPU (`needs_wide_sums`). It needs `optimize`.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4  # log fatal errors only, since failures are raised
    options.add_session_config_entry(
        "session.intra_op.allow_spinning", "0"
    )  # spinning threads would slow torch and other sessions
    options.add_session_config_entry("session.disable_quant_qdq", "0" if fuse_qdq else "1")
    options.add_session_config_entry(WIDE_SUMS, "1" if wide_sums else "0")
    options.enable_cpu_mem_arena = arena
    options.enable_mem_pattern = False  # as in the runtime
    options.intra_op_num_threads = engine_threads(threads)
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
    if not optimize:
        options.add_session_config_entry("session.disable_prepacking", "1")  # prepacking would hold each weight twice
    return GraphSession(open_with(graph, options, also))


def open_with(graph: Graph, options: ort.SessionOptions, also: Iterable[str] = ()) -> ort.InferenceSession:
    """Return a plain onnxruntime session on the CPU. The session consumes `options`.

    Weights that are mapped from files are mapped by onnxruntime too, and use no further memory unless it fuses or packs
    them. Other weights are copied.
    """
    given = _drop_unread(graph, also)
    graph = cast_constants(given)
    if graph is not given:  # in the order of the graph, since the usual order begins with all casts
        options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
    if io.exceeds_one_file(graph):
        release_free_memory()  # garbage of the previous network
    folder = _folder(graph)
    find = weights.folder_finder(folder) if folder is not None else _no_place
    if folder is not None:
        options.add_session_config_entry(FOLDER, path_text(folder))
    rest = {name: array for name, array in weights.large_constants(graph).items() if find(array) is None}
    if sum(array.nbytes for array in rest.values()) <= io.EXTERNAL_ABOVE:
        rest = {}
    in_memory = {weights.memory_key(array): weights.FilePlace(Path(io.IN_MEMORY), 0) for array in rest.values()}
    with report_ort_errors("load the graph"):
        values = [_ort_value(np.require(array, requirements=["C", "A"])) for array in rest.values()]
        options.add_external_initializers(list(rest), values)  # a protobuf message holds at most 2 GiB
        model = io.to_model(graph, lambda array: find(array) or in_memory.get(weights.memory_key(array)), also)
        return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _ort_value(array: Array) -> ort.OrtValue:
    if array.dtype not in STORED:
        return ort.OrtValue.ortvalue_from_numpy(array)
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)  # numpy itself has no bfloat16
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), kind)


def _drop_unread(graph: Graph, also: Iterable[str]) -> Graph:
    """Return the graph without constants that no node reads. onnxruntime would drop them while loading, and then refuse
    the external values passed for them."""
    read = {name for node in graph.nodes for name in node.inputs} | {value.name for value in graph.outputs} | {*also}
    return replace(graph, constants={name: array for name, array in graph.constants.items() if name in read})


def _folder(graph: Graph) -> Path | None:
    """Return the folder that holds most bytes of a graph's mapped weights. onnxruntime reads weights from one folder
    only. None if no weight is mapped."""
    sizes = Counter[Path]()
    for array in weights.large_constants(graph).values():
        if (place := weights.place_of(array)) is not None:
            sizes[place.file.parent] += array.nbytes
    return sizes.most_common(1)[0][0] if sizes else None


def _no_place(array: Array) -> weights.FilePlace | None:
    """Return None as the place of an array that no file holds."""
    return None


@contextmanager
def report_ort_errors(verb: str, fix: str = "rewrite the operation that the error names, in float32") -> Iterator[None]:
    """Raise an error of onnxruntime as a one-line UserError. Its exceptions share no base class but Exception."""
    try:
        yield
    except Exception as error:
        raise UserError(f"onnxruntime {ort.__version__} cannot {verb}: {first_line(error)}", fix) from error
