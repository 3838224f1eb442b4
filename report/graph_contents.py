"""The graphs of a bundle as they run here, with the type of each operation and the reason for it.

The structs of this file are part of the JSON of `fewstep inspect`.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator

import msgspec
import onnx

from fewstep.calibration.lowering.coverage import count_operation_macs, optimize_graph
from fewstep.graph.engine_operations import find_unparsed, minimum_version, version_text
from fewstep.graph.files.stored_graphs import load_stored
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import HALVES
from fewstep.graph.passes.contrib_attention import explain_separate_attention
from fewstep.graph.selection import CONTRIB
from fewstep.graph.types import infer_types
from fewstep.measure.bodies import ranges_file
from fewstep.measure.body_backends import is_run_by_onnxruntime
from fewstep.measure.results import Operation
from fewstep.report.operations import float_operations, operation_coverage, unseen_tensors
from fewstep.runtime.bundle.manifest import Body, Coverage, TensorEntry
from fewstep.runtime.bundle.manifest import GraphEntry as GraphFile
from fewstep.runtime.bundle.platforms import PORTABLE, TENSORRT, WEIGHTS_ONLY, platform_of
from fewstep.runtime.bundle.reading import Bundle

NCHWC = f"{CONTRIB}.nchwc"
LAYOUT = ("nchwc.ReorderInput", "nchwc.ReorderOutput")  # operations that change the memory layout, and are not fusions


class Struct(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base class of the structs in this module."""


class GraphContents(Struct, frozen=True):
    """A graph as it is stored, and as onnxruntime optimizes it on this machine.

    optimized: the number of nodes of each operation type; None if another engine runs the graph.
    fused: operation types that only occur in the optimized graph and that only onnxruntime defines: fusions, or faster
        versions of single operations.
    separate: why attention is not one operation of onnxruntime's CUDA provider, with the number of softmaxes for each
        reason.
    engine: the oldest TensorRT that can parse the graph, or the operations that no TensorRT can parse; None for a graph
        that is for another engine.
    """

    file: str
    bytes: int  # including its weight files
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    operations: dict[str, int]  # nodes by operation, the most frequent first
    optimized: dict[str, int] | None
    fused: dict[str, int]
    separate: dict[str, int]
    engine: str | None


class Share(Struct, frozen=True):
    """The operations that compute in one type, such as int8. `reasons` says why they are not int8, with the number of
    operations for each reason."""

    type: str
    operations: int
    macs: int  # per sample
    reasons: dict[str, int]


class StepGraphContents(Struct, frozen=True):
    """A graph that runs the steps with lambda below `until` instead of the body's last graph, and has more operations
    in float."""

    until: float
    graph: GraphContents
    coverage: Coverage


class BodyContents(Struct, frozen=True):
    """The graphs of a body (the denoiser in one precision), in addition to the body's entry in the manifest.

    multiplying: its matrix products and convolutions in graph order, with their types. uncounted: the reason why they
        could not be listed, or "". replaces: the graphs that it runs instead of shared ones, by name.
    """

    graph: GraphContents
    shares: tuple[Share, ...]
    multiplying: tuple[Operation, ...]
    earlier: tuple[StepGraphContents, ...] = ()
    uncounted: str = ""
    replaces: dict[str, GraphContents] = {}


def read_graph_contents(
    bundle: Bundle, graph: GraphFile, runs_here: bool = True, parsed: bool = True
) -> tuple[GraphContents, Graph]:
    """Return the contents of a graph's file, and the graph.

    runs_here: whether onnxruntime runs the graph here. parsed: whether TensorRT parses it.
    """
    read = load_stored(bundle, graph)
    stored = Counter(read.ops())
    nodes = optimize_graph(read) if runs_here else None
    counted = Counter(map(_kind, nodes or ()))
    contrib = {_kind(node) for node in nodes or () if node.domain.startswith(CONTRIB)}
    contents = GraphContents(
        file=graph.file,
        bytes=sum((bundle.path / name).stat().st_size for name in (graph.file, *graph.data)),
        inputs=graph.inputs,
        outputs=graph.outputs,
        operations=dict(stored.most_common()),
        optimized=None if nodes is None else dict(counted.most_common()),
        fused={op: n for op, n in counted.most_common() if op in contrib and op not in stored and op not in LAYOUT},
        separate=explain_separate_attention(read, infer_types(read)) if stored["Softmax"] and runs_here else {},
        engine=_engine_requirement(read) if parsed else None,
    )
    return contents, read


def _kind(node: onnx.NodeProto) -> str:
    """Return the operation type of a node in an optimized graph. Convolutions in onnxruntime's NCHWc layout are a type
    of their own."""
    return f"nchwc.{node.op_type}" if node.domain == NCHWC else str(node.op_type)


def _engine_requirement(graph: Graph) -> str:
    version = minimum_version(graph)
    return f"TensorRT {version_text(version)}" if version else "; ".join(map(str, find_unparsed(graph)))


def read_body_contents(
    bundle: Bundle, name: str, body: Body, prepared: Graph | None, unreadable: Collection[str]
) -> BodyContents:
    """Return the contents of a body. Its operations are counted in `prepared`, the float32 body's graph. Files named in
    `unreadable` are not read."""
    runs_here = is_run_by_onnxruntime(body)
    contents, lowered = read_graph_contents(bundle, body.graph, runs_here, _is_for_engines(body))
    earlier = tuple(
        StepGraphContents(graph.until, read_graph_contents(bundle, graph, runs_here, parsed=False)[0], graph.coverage)
        for graph in body.graphs
        if graph.until is not None and graph.coverage is not None
    )
    replaces = {which: read_graph_contents(bundle, graph, runs_here)[0] for which, graph in body.replaces.items()}
    uncounted = _why_uncounted(prepared)
    if prepared is None or uncounted:
        return msgspec.structs.replace(_make_uncounted_body(body, contents, earlier, uncounted), replaces=replaces)
    work = count_operation_macs(prepared)
    outputs = [node.output for node in prepared.nodes if node.output in work]
    none = Coverage(int8_macs=0, total_macs=sum(work.values()), int8_ops=(), float_ops=tuple(outputs))
    unseen = () if ranges_file(bundle, body) in unreadable else unseen_tensors(bundle, body)
    multiplying = operation_coverage(
        prepared, name, body.graph.coverage or none, unseen, float_operations(body)
    ).operations
    if body.graph.coverage is None:  # a float body, for which no operation was selected
        multiplying = tuple(msgspec.structs.replace(operation, reason="") for operation in multiplying)
    dtypes = {array.dtype for array in lowered.constants.values()}  # a graph has only one float type
    float_type = next((name for name, half in HALVES.items() if half in dtypes), "float32")
    types = dict.fromkeys(outputs, float_type)
    if body.precision in WEIGHTS_ONLY:  # float16 numbers are scales
        bits = _read_stored_bits(lowered)
        types = dict.fromkeys(outputs, "float32") | {
            name: f"float32, weights of {number} bits" for name, number in bits.items()
        }
    multiplying = tuple(
        op if op.precision == "int8" else msgspec.structs.replace(op, precision=types[name])
        for name, op in zip(outputs, multiplying, strict=True)
    )
    return BodyContents(contents, tuple(_shares(multiplying)), multiplying, earlier, replaces=replaces)


def _read_stored_bits(graph: Graph) -> dict[str, int]:
    """Return the bits of stored weights, by the output of the operation that multiplies them."""
    makers, bits = {node.output: node.op for node in graph.nodes}, dict[str, int]()
    for node in graph.nodes:
        if node.op == "MatMulNBits":
            bits[node.output.removesuffix("/product")] = node.attributes["bits"]
        elif node.op in ("Conv", "Gemm", "MatMul") and makers.get(node.inputs[1]) == "DequantizeLinear":
            bits[node.output] = 8
    return bits


def _is_for_engines(body: Body) -> bool:
    """Return whether TensorRT can build engines from the graphs of a body."""
    platform = platform_of(body.target, body.platform)
    return body.target == PORTABLE or (platform is not None and platform.backend == TENSORRT.backend)


def _why_uncounted(prepared: Graph | None) -> str:
    """Return why the operations of the float32 body cannot be counted; "" if they can."""
    if prepared is None:
        return "the bundle has no float32 body to count them in"
    own = next((node for node in prepared.nodes if node.domain.startswith(CONTRIB)), None)
    if own is None:
        return ""
    return f"{own.name or own.output!r} is a {own.op}, an operation of onnxruntime's own after which shapes are unknown"


def _make_uncounted_body(
    body: Body, contents: GraphContents, earlier: tuple[StepGraphContents, ...], uncounted: str
) -> BodyContents:
    """Return the contents of a body whose operations could not be counted in the optimized graph. If it is int8, they
    include the counts made by the calibration."""
    shares: tuple[Share, ...] = ()
    if (counted := body.graph.coverage) is not None:
        in_float = counted.total_macs - counted.int8_macs
        shares = (
            Share("int8", len(counted.int8_ops), counted.int8_macs, {}),
            Share("float", len(counted.float_ops), in_float, {}),
        )
    return BodyContents(contents, shares, (), earlier, uncounted)


def _shares(multiplying: Iterable[Operation]) -> Iterator[Share]:
    """Yield the operations grouped by type, int8 first."""
    by_type: dict[str, list[Operation]] = {}
    for operation in multiplying:
        by_type.setdefault(operation.precision, []).append(operation)
    for kind, own in sorted(by_type.items(), key=lambda item: item[0] != "int8"):
        reasons = Counter(operation.reason for operation in own if operation.reason)
        yield Share(kind, len(own), sum(operation.macs for operation in own), dict(reasons.most_common()))
