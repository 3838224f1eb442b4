"""The arithmetic of operations, in multiply-accumulates (MACs)."""

from collections.abc import Mapping
from math import prod

from fewstep.graph.graph import Node
from fewstep.graph.types import Types


def count_macs(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Count the MACs of a Conv, ConvTranspose, Gemm or MatMul: output elements times the elements summed for each."""
    if node.op == "ConvTranspose":  # every kernel tap adds each input element to every output channel of its group
        return prod(shapes[node.inputs[0]]) * prod(shapes[node.inputs[1]][1:])
    if node.op == "Conv":
        summed = shapes[node.inputs[1]][1:]
    else:
        rows = shapes[node.inputs[0]]
        summed = rows[:1] if node.attributes.get("transA", 0) else rows[-1:]
    return prod(shapes[node.output]) * prod(summed)


def estimate_macs(node: Node, types: Types) -> int:
    """Estimate the MACs of a node for one sample at the default sizes; 0 unless it is a Conv, Gemm or MatMul."""
    if node.op not in ("Conv", "Gemm", "MatMul"):
        return 0
    return count_macs(node, {name: _sizes(name, types) for name in (node.output, *node.inputs[:2])})


def _sizes(name: str, types: Types) -> tuple[int, ...]:
    value = types.usual.get(name)
    return () if value is None else tuple(size if isinstance(size, int) else 1 for size in value.shape)
