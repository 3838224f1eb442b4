"""Sums of squares in norms that are exported as single operations, such as the RMSNorm of transformers.

A square exceeds float16 if |x| > 256, long before x does. TensorRT computes LayerNormalization and
InstanceNormalization in float32 by default (INormalizationLayer), so these need no change.
"""

import numpy as np

from fewstep.graph.graph import Graph, Node
from fewstep.graph.index import Index, index
from fewstep.graph.types import infer_types

SUMS = ("ReduceMean", "ReduceSum")
OF_SQUARES = ("ReduceSumSquare", "ReduceL2")
AFTER_SUM = ("Add", "Mul", "Div", "Max", "Clip", "Sqrt", "Pow", "Reciprocal")  # with constants only


def sums_of_squares(graph: Graph) -> frozenset[str]:
    """Return the float32 tensors from each square to the root of its sum. All of them must be computed in float32.

        Mul(x, x) or Pow(x, 2) -> ReduceMean or ReduceSum, or ReduceSumSquare or ReduceL2(x) -> Add(epsilon) -> Sqrt ...

    The last of these tensors is the first that any other operation reads. A square that is also read by something other
    than a sum is not included.
    """
    idx, found = index(graph), set[str]()
    for node in graph.nodes:
        if node.op in OF_SQUARES and _has_axes(node, graph):
            found |= _downstream(node, idx)
        elif _is_square(node, graph) and (sums := _sums(node, idx)):
            found.add(node.outputs[0])
            for each in sums:
                found |= _downstream(each, idx)
    if not found:
        return frozenset()
    types = infer_types(graph).values
    return frozenset(name for name in found if name in types and types[name].dtype == np.float32)


def _is_square(node: Node, graph: Graph) -> bool:
    if node.op == "Mul":
        return node.inputs[0] == node.inputs[1]
    exponent = graph.constants.get(node.inputs[1]) if node.op == "Pow" else None
    return exponent is not None and exponent.size == 1 and exponent.item() == 2


def _sums(square: Node, idx: Index) -> tuple[Node, ...]:
    """Return the sums that read a square, or none if anything else reads it."""
    readers = idx.consumers.get(square.outputs[0], ())
    is_summed = all(each.op in SUMS and _has_axes(each, idx.graph) for each in readers)
    return readers if is_summed and square.outputs[0] not in idx.outputs else ()


def _has_axes(total: Node, graph: Graph) -> bool:
    """Return True if the axes are constants of the graph."""
    return all(map(graph.is_constant, total.inputs[1:]))


def _downstream(total: Node, idx: Index) -> set[str]:
    """Return the output of a sum, and the tensors computed from it and constants only."""
    name = total.outputs[0]
    found = {name}
    while idx.is_inner(name):
        reader = idx.consumers[name][0]
        if reader.op not in AFTER_SUM or any(
            each and each != name and not idx.graph.is_constant(each) for each in reader.inputs
        ):
            break
        name = reader.outputs[0]
        found.add(name)
    return found


def inner_tensors(graph: Graph, tensors: frozenset[str]) -> frozenset[str]:
    """Return the tensors of `sums_of_squares` that no other operation reads."""
    idx = index(graph)
    return frozenset(
        name
        for name in tensors
        if name not in idx.outputs and all(each.outputs[0] in tensors for each in idx.consumers.get(name, ()))
    )
