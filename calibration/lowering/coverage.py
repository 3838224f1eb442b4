"""The operations that really run in int8, counted in the graph after onnxruntime's optimization."""

import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort

from fewstep.graph.extents import fix_batch, fix_sizes
from fewstep.graph.graph import Array, Graph
from fewstep.graph.mac_count import count_macs
from fewstep.graph.session import open_with, run
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Coverage

Shapes = Mapping[str, tuple[int, ...]]

MULTIPLY = ("Conv", "ConvTranspose", "MatMul", "Gemm")
INTEGER_KERNELS = {"QLinearConv": 3, "MatMulIntegerToFloat": 1}  # operation: index of its weight among its inputs


def count_coverage(prepared: Graph, int8: Collection[str]) -> Coverage:
    """Return the coverage of the operations named in `int8`, among all multiply-accumulates, including attention."""
    work = count_operation_macs(prepared)
    return Coverage(
        int8_macs=sum(work[name] for name in work if name in int8),
        total_macs=sum(work.values()),
        int8_ops=tuple(name for name in work if name in int8),
        float_ops=tuple(name for name in work if name not in int8),
    )


def check_coverage(prepared: Graph, wanted: Sequence[str], ran: Collection[str], engine: str) -> Coverage:
    """Return the coverage of an engine that ran the operations `ran` in integers. Raises UserError that names the first
    of the `wanted` operations which is not among them."""
    coverage = count_coverage(prepared, [name for name in wanted if name in ran])
    for name in wanted:
        if name not in coverage.int8_ops:
            raise UserError(
                f"{engine} runs {name!r} in float instead of int8",
                f"use the version of {engine.lower()} in .ci/constraints.txt",
            )
    return coverage


def count_operation_macs(graph: Graph) -> dict[str, int]:
    """Return the multiply-accumulates per sample of every operation of MULTIPLY, by output.

    Shapes that depend on values, such as routed rows of a layer, are taken from one sample of noise. Raises UserError
    naming a tensor whose shape cannot be found in either way.
    """
    shapes = _infer_shapes(fix_batch(fix_sizes(graph), 1))
    return {node.output: count_macs(node, shapes) for node in graph.nodes if node.op in MULTIPLY}


def integer_kernels(graph: Graph) -> frozenset[str]:
    """Return the names of the weights that integer kernels read, after onnxruntime's optimization for this CPU."""
    return frozenset(
        node.input[INTEGER_KERNELS[node.op_type]] for node in optimize_graph(graph) if node.op_type in INTEGER_KERNELS
    )


def optimize_graph(graph: Graph) -> list[onnx.NodeProto]:
    """Return the nodes that onnxruntime really runs on this CPU, at the runtime's optimization level."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "optimized.onnx"
        options = ort.SessionOptions()
        options.log_severity_level = 3  # suppress the warning that the file suits only this CPU, as intended
        options.optimized_model_filepath = str(result)
        options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "optimized.data")
        open_with(graph, options)
        return list(onnx.load(result, load_external_data=False).graph.node)


def _infer_shapes(graph: Graph) -> Shapes:
    """Return the shapes of all tensors that operations of MULTIPLY read and write, in a graph for one sample."""
    types = infer_types(graph)
    multiplying = [node for node in graph.nodes if node.op in MULTIPLY]
    names = dict.fromkeys(name for node in multiplying for name in (node.output, *node.inputs[:2]))
    inferred = {name: types.static(name) for name in names}
    shapes = {name: shape for name, shape in inferred.items() if shape is not None}
    shapes |= {name: array.shape for name, array in graph.constants.items()}
    missing = [name for name in names if name not in shapes]
    if missing and any(isinstance(size, str) for value in graph.inputs for size in value.shape):
        raise UserError(
            f"the shape of {missing[0]!r} is not known before the graph runs", "export with a fixed image size"
        )
    seen = run(graph, _random_inputs(graph), missing) if missing else {}
    return shapes | {name: seen[name].shape for name in missing}


def _random_inputs(graph: Graph) -> dict[str, Array]:
    """Return inputs for a graph of fixed sizes: random floats, and zeros for other types."""
    rng = np.random.default_rng(0)
    shapes = {value: tuple(map(int, value.shape)) for value in graph.inputs}
    return {
        value.name: (rng.standard_normal(shape) if value.dtype.kind == "f" else np.zeros(shape)).astype(value.dtype)
        for value, shape in shapes.items()
    }
