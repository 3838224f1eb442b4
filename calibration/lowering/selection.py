"""Which operations are lowered to int8, until a measured precision map says so."""

from collections.abc import Mapping
from dataclasses import dataclass

from fewstep.graph.graph import Graph, Node, X
from fewstep.graph.index import Index, index
from fewstep.runtime.errors import UserError

LEAST_CHANNELS = 16  # below, int8 kernels pad to this many and win nothing
INTEGER_OPS = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "MatMulInteger", "ConvInteger")


@dataclass(frozen=True)
class WeightedOp:
    """A Conv, MatMul or Gemm with a constant weight. Its name is that of the tensor it makes."""

    node: Node
    channels_in: int  # per convolution group
    channels_out: int
    axis: int  # of the weight, along which its output channels lie

    @property
    def name(self) -> str:
        return self.node.output

    @property
    def x(self) -> str:
        """The activation it reads."""
        return self.node.inputs[0]

    @property
    def weight(self) -> str:
        return self.node.inputs[1]


def selected_ops(graph: Graph) -> tuple[WeightedOp, ...]:
    """The operations to run in int8, in order.

    Rule: Conv, and MatMul or Gemm with a constant weight, that depend on x and have at least 16 channels on both
    sides; but not the first layers (which see x itself) nor the last ones (whose output reaches the sample): their
    error enters every step undamped, and they are a small share of the work.
    """
    refuse_quantized(graph)
    idx = index(graph)
    moving = idx.reachable([X])
    ops = {op.name: op for op in (weighted_op(node, graph) for node in graph.nodes) if op and op.x in moving}
    outer = _reached_without(idx, ops) | _reaching_without(graph, ops)
    return tuple(
        op
        for op in ops.values()
        if min(op.channels_in, op.channels_out) >= LEAST_CHANNELS and op.name not in outer and _is_plain(op, idx)
    )


def weighted_op(node: Node, graph: Graph) -> WeightedOp | None:
    """The node as a WeightedOp, if it multiplies an activation by a constant weight."""
    weight = graph.constants.get(node.inputs[1]) if node.op in ("Conv", "MatMul", "Gemm") and not node.domain else None
    if weight is None or weight.ndim < 2 or graph.is_constant(node.inputs[0]):
        return None
    if node.op == "Conv":
        return WeightedOp(node, weight.shape[1], weight.shape[0], 0)
    axis = 0 if node.attributes.get("transB", 0) else 1
    return WeightedOp(node, weight.shape[1 - axis], weight.shape[axis], axis) if weight.ndim == 2 else None


def refuse_quantized(graph: Graph) -> None:
    """UserError if a graph has integer operations already: its ranges would mean something else."""
    for node in graph.nodes:
        if node.op in INTEGER_OPS or node.domain == "com.microsoft":
            raise UserError(
                f"the graph is quantized already: {node.name or node.output!r} is a {node.op}",
                "lower the prepared float graph of the bundle",
            )


def _is_plain(op: WeightedOp, idx: Index) -> bool:
    """True if the operation is no more than x times W, plus at most a constant bias."""
    attributes = op.node.attributes
    is_scaled = any(attributes.get(factor, 1.0) != 1.0 for factor in ("alpha", "beta"))
    return not (is_scaled or attributes.get("transA")) and all(map(idx.graph.is_constant, op.node.inputs[2:]))


def _reached_without(idx: Index, ops: Mapping[str, WeightedOp]) -> frozenset[str]:
    """Names of operations that x reaches through no other one."""
    reached, found = {X}, set()
    for node in idx.graph.nodes:
        if reached.isdisjoint(node.inputs):
            continue
        if node.output in ops:
            found.add(node.output)
        else:
            reached.update(node.outputs)
    return frozenset(found)


def _reaching_without(graph: Graph, ops: Mapping[str, WeightedOp]) -> frozenset[str]:
    """Names of operations that reach an output through no other one."""
    needed, found = {value.name for value in graph.outputs}, set()
    for node in reversed(graph.nodes):
        if needed.isdisjoint(node.outputs):
            continue
        if node.output in ops:
            found.add(node.output)
        else:
            needed.update(node.inputs)
    return frozenset(found)
