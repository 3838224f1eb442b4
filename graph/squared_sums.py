"""Sums of squares in norms that are exported as single operations, such as the RMSNorm of transformers.

A square exceeds float16 if |x| > 256, long before x does. TensorRT computes LayerNormalization and
InstanceNormalization in float32 by default (INormalizationLayer), so these need no change.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.half_types import largest_number, smallest_number
from fewstep.graph.index import Index, index
from fewstep.graph.types import infer_types

SUMS = ("ReduceMean", "ReduceSum")
OF_SQUARES = ("ReduceSumSquare", "ReduceL2")
AT_ZERO: Mapping[str, Callable[..., Any]] = {
    "Add": np.add,
    "Mul": np.multiply,
    "Div": np.divide,
    "Max": lambda *values: max(values),  # it may have one input
    "Sqrt": np.sqrt,
    "Pow": np.power,
    "Reciprocal": lambda value: np.divide(1, value),
}
AFTER_SUM = (*AT_ZERO, "Clip")  # with constants only


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
            for product in sums:
                found |= _downstream(product, idx)
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
    """Return the sums that read a square. Empty if any other operation reads it."""
    readers = idx.consumers.get(square.outputs[0], ())
    is_summed = all(reader.op in SUMS and _has_axes(reader, idx.graph) for reader in readers)
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
        if name not in idx.outputs and all(reader.outputs[0] in tensors for reader in idx.consumers.get(name, ()))
    )


def limit_norms(graph: Graph, half: np.dtype[Any]) -> Graph:
    """Clip the norms that a 16-bit float type rounds to 0 or infinity where x is 0.

        x / Max(ReduceL2(x), 1e-12)      ==>      x / Clip(Max(ReduceL2(x), 1e-12), 6e-8)

    Otherwise a row of zeros, such as padding, would become 0 / 0 or 0 * infinity, which is NaN.
    """
    sums = sums_of_squares(graph)
    last = sums - inner_tensors(graph, sums)
    nodes, constants, at_zero = list[Node](), dict[str, Array](), dict[str, float]()
    for node in graph.nodes:
        name = node.outputs[0]
        if name in sums:
            at_zero[name] = _value_at_zero(node, at_zero, graph)
        with np.errstate(over="ignore"):
            rounded = float(np.float32(at_zero.get(name, 0.0)).astype(half))
        is_lost = 0 < at_zero.get(name, 0.0) < np.inf and (rounded == 0 or np.isinf(rounded))
        if name not in last or not is_lost:
            nodes.append(node)
            continue
        wide, limit = f"unlimited({name})", f"limit({name})"
        constants[limit] = np.asarray(smallest_number(half) if rounded == 0 else largest_number(half), np.float32)
        bounds = (limit,) if rounded == 0 else ("", limit)
        nodes += [replace(node, outputs=(wide,)), Node("Clip", (wide, *bounds), (name,), name=f"clip({name})")]
    return graph.with_nodes(nodes, constants) if constants else graph


def _value_at_zero(node: Node, known: Mapping[str, float], graph: Graph) -> float:
    """Return the value that a tensor of `sums_of_squares` has where x is 0, or NaN if it differs between elements."""
    if node.op in SUMS or known.keys().isdisjoint(node.inputs):
        return 0.0  # a sum or a square
    values = [known[name] if name in known else _number(graph, name) for name in node.inputs if name]
    with np.errstate(all="ignore"):
        if node.op == "Clip":
            has_least = len(node.inputs) > 1 and node.inputs[1] != ""
            return max(values[:2]) if has_least else values[0]  # an upper limit does not cause a loss
        return float(AT_ZERO[node.op](*values))


def _number(graph: Graph, name: str) -> float:
    array = graph.constants.get(name)
    return float(array.item()) if array is not None and array.size == 1 else np.nan
