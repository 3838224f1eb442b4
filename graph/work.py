"""How much arithmetic a node is."""

from math import prod

from fewstep.graph.graph import Node
from fewstep.graph.types import Types


def work(node: Node, types: Types) -> int:
    """About how many multiply-accumulates of one sample, at the usual sizes: one for each element made and summed."""
    if node.op not in ("Conv", "Gemm", "MatMul"):
        return 0
    made, weight = (_sizes(name, types) for name in (node.output, node.inputs[1]))
    return prod(made) * prod(weight[1:] if node.op == "Conv" else _sizes(node.inputs[0], types)[-1:])


def _sizes(name: str, types: Types) -> tuple[int, ...]:
    value = types.usual.get(name)
    return () if value is None else tuple(size if isinstance(size, int) else 1 for size in value.shape)
