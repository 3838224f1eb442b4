"""The arithmetic of operations, in multiply-accumulates."""

from collections.abc import Mapping
from math import prod

from fewstep.graph.graph import Node
from fewstep.graph.types import Types


def count_macs(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """The multiply-accumulates of a Conv, ConvTranspose, Gemm or MatMul: one product for each element made and each
    element summed over."""
    if node.op == "ConvTranspose":  # each element read goes to every output channel of its group, by every tap
        return prod(shapes[node.inputs[0]]) * prod(shapes[node.inputs[1]][1:])
    if node.op == "Conv":
        summed = shapes[node.inputs[1]][1:]
    else:
        rows = shapes[node.inputs[0]]
        summed = rows[:1] if node.attributes.get("transA", 0) else rows[-1:]
    return prod(shapes[node.output]) * prod(summed)


def estimate_macs(node: Node, types: Types) -> int:
    """About how many multiply-accumulates a node takes for one sample at the usual sizes; 0 for other operations than
    Conv, Gemm and MatMul."""
    if node.op not in ("Conv", "Gemm", "MatMul"):
        return 0
    return count_macs(node, {name: _sizes(name, types) for name in (node.output, *node.inputs[:2])})


def _sizes(name: str, types: Types) -> tuple[int, ...]:
    value = types.usual.get(name)
    return () if value is None else tuple(size if isinstance(size, int) else 1 for size in value.shape)
