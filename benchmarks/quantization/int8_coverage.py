"""Operations in int8 of other tools' graphs, on the engine they were made for."""

import re

from fewstep.calibration.lowering.coverage import MULTIPLY, count_coverage, count_operation_macs, optimize_graph
from fewstep.calibration.lowering.openvino_kernels import integer_operations
from fewstep.graph.graph import Graph
from fewstep.graph.index import Index, index
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Coverage

# What onnxruntime makes of a node's name where it fuses the node with another, or moves it to its own layout.
RENAMED = re.compile(r"(?:fused )?(?P<given>.+?)(?:/\w+Fusion/?)*(?:_token_\d+)?(?:_nchwc)?")


def measure_coverage(engine: str, prepared: Graph, graph: Graph) -> Coverage:
    """Return the coverage that the engine reports, or for TensorRT that of the graph's pairs, which a strongly typed
    engine follows.

    `prepared` is the float graph with nodes named after their outputs, `graph` a tool's graph, whose nodes have the
    same names (a convolution with a joined bias makes another tensor). Raises UserError for an operation in int8
    that `prepared` lacks.
    """
    if engine == "openvino":
        names = {node.output: node.name for node in graph.nodes}
        int8 = frozenset(names[made] for made in integer_operations(graph))
    elif engine == "onnxruntime":
        int8 = frozenset(count_operation_macs(prepared)) - in_float(prepared, graph)
    else:
        int8 = pair_operations(graph)
    if unknown := sorted(int8 - count_operation_macs(prepared).keys()):
        raise UserError(f"{unknown[0]!r} runs in int8, and the float graph has no such operation", "keep nodes' names")
    return count_coverage(prepared, int8)


def in_float(prepared: Graph, graph: Graph) -> frozenset[str]:
    """The multiplying operations of `prepared` that onnxruntime runs in float, in `graph` as it optimizes it."""
    idx = index(prepared)
    floats = [node.name for node in optimize_graph(graph) if node.op_type.removeprefix("Fused") in MULTIPLY]
    return frozenset(multiplying(idx, name) for name in floats)


def multiplying(idx: Index, name: str) -> str:
    """Return the operation that a float kernel named `name` multiplies by.

    onnxruntime gives a kernel the name of the last fused node, such as a bias or an activation after the operation.
    Raises UserError for a name that leads to no operation, or to several.
    """
    found = RENAMED.fullmatch(name)
    node = idx.producers.get(found["given"]) if found else None
    while node is not None and node.op not in MULTIPLY:
        made = {each for each in node.inputs if each in idx.producers}
        node = idx.producers[made.pop()] if len(made) == 1 else None
    if node is None:
        raise UserError(f"onnxruntime calls a float operation {name!r}", "use the onnxruntime of .ci/constraints.txt")
    return node.output


def pair_operations(graph: Graph) -> frozenset[str]:
    """Operations that read an activation and a weight through DequantizeLinear, by the names of their nodes."""
    dequantized = {node.output for node in graph.nodes if node.op == "DequantizeLinear"}
    return frozenset(
        node.name
        for node in graph.nodes
        if node.op in MULTIPLY and all(name in dequantized for name in node.inputs[:2])
    )
