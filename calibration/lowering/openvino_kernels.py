"""The operations that really run in int8, as reported for the graph that OpenVINO's CPU plugin compiled."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.coverage import MULTIPLY
from fewstep.calibration.ranges.observe import expose_tensors
from fewstep.graph.extents import fix_sizes
from fewstep.graph.files.io import save
from fewstep.graph.graph import BATCH, Array, Graph, Node
from fewstep.graph.index import index
from fewstep.graph.pattern import match
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.backends.openvino import OpenVino, last_line, read_model, version
from fewstep.runtime.bundle.platforms import OPENVINO

MULTIPLYING = ("Convolution", "FullyConnected", "MatMul")  # OpenVINO's layer types that have integer kernels
FUSED = "Subgraph"  # a kernel of several operations, which may include products if OpenVINO has one thread
INTEGER = ("u8", "i8")
FILE = "graph.onnx"  # in a temporary folder


def integer_operations(graph: Graph) -> frozenset[str]:
    """Return the names of the tensors that integer kernels compute, in a graph compiled for one sample of default size
    on this CPU.

    A kernel may fuse several operations. It is identified by the multiplying operation.
    """
    weighted = {f"weighted{i}": node.output for i, node in enumerate(graph.nodes) if node.op in MULTIPLY}
    labels = {tensor: label for label, tensor in weighted.items()}
    operations = weighted | _products_by_weight(graph)
    labelled = tuple(replace(node, name=labels.get(node.output, node.name)) for node in graph.nodes)
    shapes = {v.name: [1 if size == BATCH else int(size) for size in v.shape] for v in fix_sizes(graph).inputs}
    compiled = _make_compiler(replace(graph, nodes=labelled), OpenVino(cached=False))
    layers = compiled(shapes).get_runtime_model().get_ops()
    integer = [layer for layer in layers if _is_integer(layer)]
    ran = [
        label
        for layer in integer
        for source_layer in (layer, *_input_transposes(layer))
        for label in _source_operations(source_layer)
    ]
    ran += [name for layer in layers if _layer_kind(layer)[0] == FUSED for name in _integer_constants(layer)]
    return frozenset(operations[label] for label in ran if label in operations)


def open_compiled(graph: Graph, tensors: Sequence[str], backend: OpenVino | None = None) -> LoadedGraph:
    """Open a graph that also returns inner `tensors`, in OpenVINO. It is compiled once for each set of input shapes, in
    the float type of `backend` (default: float32). Feeds without an input are ignored. Calling the graph raises
    UserError if the plugin fails."""
    shown = expose_openvino_tensors(graph, tensors) if tensors else graph
    compiled = _make_compiler(shown, replace(backend or OpenVino(), cached=False))
    held: dict[tuple[tuple[int, ...], ...], Any] = {}

    def run(feeds: Mapping[str, Array]) -> dict[str, NDArray[np.float32]]:
        inputs = {value.name: feeds[value.name] for value in graph.inputs}
        key = tuple(value.shape for value in inputs.values())
        if key not in held:
            held[key] = compiled({name: list(value.shape) for name, value in inputs.items()})
        try:
            results = held[key](inputs)
        except Exception as error:  # OpenVINO's errors have no common base class except Exception
            raise UserError(
                f"OpenVINO {version()} failed on graph {graph.name!r}: {last_line(error)}",
                f"calibrate without target {OPENVINO.name}",
            ) from error
        arrays = {value.name: np.array(results[value.name]) for value in shown.outputs}
        return arrays | {name: -arrays[_negative_name(name)] for name in tensors if name not in arrays}

    return run


def _make_compiler(graph: Graph, backend: OpenVino) -> Callable[[Mapping[str, list[int]]], Any]:
    """Return a function that compiles a graph for shapes of its inputs, to an `openvino.CompiledModel`. The model reads
    a temporary file that lives as long as the function."""
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    save(graph, Path(folder.name) / FILE)
    core = backend.core()
    return lambda shapes: backend.compile(core, read_model(core, Path(folder.name) / FILE), graph.name, shapes)


def expose_openvino_tensors(graph: Graph, tensors: Sequence[str]) -> Graph:
    """Return the graph with `tensors` among its outputs. Results of multiplying operations are returned negated: the
    plugin runs an operation in float if its result is itself an output (measured)."""
    products = [node.output for node in graph.nodes if node.op in MULTIPLY and node.output in tensors]
    negatives = tuple(Node("Neg", (name,), (_negative_name(name),)) for name in products)
    longer = replace(graph, nodes=graph.nodes + negatives)
    return expose_tensors(longer, [_negative_name(name) if name in products else name for name in tensors])


def _negative_name(name: str) -> str:
    return f"negated({name})"


def _products_by_weight(graph: Graph) -> dict[str, str]:
    """Return the outputs of multiplying operations, by the name of the int8 constant that the operation reads through a
    DequantizeLinear."""
    idx = index(graph)
    pattern = f"({' | '.join(MULTIPLY)})(x, DequantizeLinear(codes))"
    return {found["codes"]: node.output for node in graph.nodes if (found := match(node, pattern, idx)) is not None}


def _layer_kind(layer: Any) -> tuple[str, str]:
    """Return the type of a layer, and the data type that it runs in."""
    facts = layer.get_rt_info()
    return facts["layerType"].astype(str), facts["runtimePrecision"].astype(str)


def _is_integer(layer: Any) -> bool:
    kind, precision = _layer_kind(layer)
    return kind in MULTIPLYING and precision in INTEGER


def _input_transposes(layer: Any) -> list[Any]:
    """Return the layers that transpose the inputs of a layer. If OpenVINO dropped an operation's name, its transposed
    weight still has it."""
    read = [port.get_source_output().get_node() for port in layer.inputs()]
    return [source_layer for source_layer in read if _layer_kind(source_layer)[0] == "Transpose"]


def _integer_constants(layer: Any) -> list[str]:
    """Return the names of the int8 constants that a layer reads. A fused kernel that kept one multiplies by it without
    conversion: sums that cancel come out exact (measured in OpenVINO 2026.4)."""
    read = [port.get_source_output().get_node() for port in layer.inputs()]
    return [
        source_layer.get_friendly_name()
        for source_layer in read
        if _layer_kind(source_layer)[0] == "Const" and _layer_kind(source_layer)[1] == "i8"
    ]


def _source_operations(layer: Any) -> Iterator[str]:
    """Yield the names of the operations fused into a layer. If OpenVINO splits an operation, it appends a slash and a
    suffix to the name, which are removed."""
    yield from (name.partition("/")[0] for name in layer.get_rt_info()["originalLayersNames"].astype(str).split(","))
