"""Activations moved so that zero is the middle of their range: what a symmetric code loses behind a SiLU, won back.

SiLU's results lie in [-0.28, high]. A symmetric code spends half of its numbers below zero, where next to nothing is.
For engines that take no zero points the graph itself moves the activation:

    op(x, W) + bias      ==>      op(x - c, W) + (bias + c * sum of W)

The sum is that of the rounded weights: where x is zero the two then cancel, as most of what SiLU makes nearly is. With
the float weights' sum their rounding errors would be multiplied by c everywhere, which costs more than centring wins.
A convolution's border of zeros is written out before that, since zero is -c there: Pad(x), then the convolution without
pads.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from fewstep.calibration.lowering.selection import WeightedOp
from fewstep.calibration.ranges.table import Range, Ranges, RangesTable
from fewstep.calibration.weights import QuantizedWeight
from fewstep.graph.additions import Additions
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import Index, index

LEAST_GAIN = 1.25  # how much finer the scale must become; sums of residuals lie around zero and would win nothing
STEPS = 254  # of a symmetric int8 code, -127 .. 127


def centre(
    prepared: Graph, table: RangesTable, weights: Mapping[str, QuantizedWeight], ops: Sequence[WeightedOp]
) -> tuple[Graph, RangesTable]:
    """The graph with the activations of `ops` centred where their pooled range gains by it, and the table with the
    ranges of what is new. Operations keep their names, and their `weights`, by name, which they are to be lowered with.
    """
    new = Additions(prepared)
    replaced: dict[str, tuple[Node, ...]] = {}
    shifts: dict[str, Array] = {}  # by operation: what its output lacks, for each channel
    ranges: dict[str, Ranges] = {}
    made: dict[tuple[str, tuple[int, ...]], str] = {}  # operations that read alike share what they read
    for op in ops:
        middle = _middle(table[op.x])
        pads = _pads(op)
        if not middle or pads is None:
            continue
        key = (op.x, pads)
        before: tuple[Node, ...] = ()
        if key not in made:
            before = _centred(op.x, pads, middle, new)
            made[key] = before[-1].output
            ranges[made[key]] = _moved(table[op.x], middle)
        attributes = {name: value for name, value in op.node.attributes.items() if name != "pads"}
        node = replace(op.node, inputs=(made[key], *op.node.inputs[1:]), attributes=attributes)
        replaced[op.name] = (*before, node)
        weight = weights[op.name].dequantized().astype(np.float64)
        shifts[op.name] = middle * weight.sum(axis=tuple(axis for axis in range(weight.ndim) if axis != op.axis))
    nodes = [each for node in prepared.nodes for each in replaced.get(node.output, (node,))]
    graph = _restored(prepared.with_nodes(nodes, new.constants), {op.name: op for op in ops}, shifts)
    return graph, replace(table, tensors={**table.tensors, **ranges})


def _middle(ranges: Ranges) -> float:
    """The middle of the pooled range, as a whole number of its steps, so that zero is represented exactly; 0 if it is
    not worth moving."""
    low, high = ranges.pooled.low, ranges.pooled.high
    step = (high - low) / STEPS
    gain = max(-low, high) / (step * STEPS / 2)
    return round((low + high) / 2 / step) * step if gain >= LEAST_GAIN else 0.0


def _moved(ranges: Ranges, middle: float) -> Ranges:
    def moved(each: Range) -> Range:
        return Range(min(each.low - middle, 0.0), max(each.high - middle, 0.0))

    def amax(each: Range) -> float:
        return max(middle - each.low, each.high - middle)

    return Ranges(
        moved(ranges.pooled),
        tuple(map(moved, ranges.per_group)),
        (ranges.pooled.high - ranges.pooled.low) / 2,  # what is half a step beyond falls to the next number, or to -128
        tuple(map(amax, ranges.per_group)),
    )


def _pads(op: WeightedOp) -> tuple[int, ...] | None:
    """Those of a convolution, begin and end of each axis; none for a product; None if the graph does not say them."""
    if op.node.op != "Conv":
        return ()
    if op.node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        return None
    pads = tuple(op.node.attributes.get("pads", ()))
    return pads if any(pads) else ()


def _centred(x: str, pads: tuple[int, ...], middle: float, new: Additions) -> tuple[Node, ...]:
    """The nodes that make what is read; the last makes it."""
    number = new.constant(f"{x}_middle", np.array(middle, np.float32))
    if not pads:
        return (Node("Sub", (x, number), (new.name(f"{x}_centred"),), name=f"centre({x})"),)
    rank = len(pads) // 2
    widths = new.constant(f"{x}_pads", np.array([0, 0, *pads[:rank], 0, 0, *pads[rank:]], np.int64))
    padded = new.name(f"{x}_padded")
    return (
        Node("Pad", (x, widths), (padded,), {"mode": b"constant"}, name=f"pad({x})"),
        Node("Sub", (padded, number), (new.name(f"{padded}_centred"),), name=f"centre({x})"),
    )


def _restored(graph: Graph, ops: dict[str, WeightedOp], shifts: dict[str, Array]) -> Graph:
    """The graph with every shift in the bias behind its operation, or added there if it has none."""
    idx, new = index(graph), Additions(graph)
    biased = {name: _bias(idx, ops[name]) for name in shifts}
    places = {add.output: (name, bias) for name, found in biased.items() if found for add, bias in [found]}
    names = {name: new.name(f"{name}_restored") for name, found in biased.items() if not found}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.output in places:
            name, bias = places[node.output]
            old = graph.constants[bias]
            value = (old + shifts[name].reshape(_shape(ops[name], graph))).astype(old.dtype)
            bias_with = new.constant(f"{bias}_restored", value)
            node = replace(node, inputs=tuple(bias_with if each == bias else each for each in node.inputs))
        nodes.append(replace(node, inputs=tuple(names.get(each, each) for each in node.inputs)))
        if node.output in names:
            shift = shifts[node.output].astype(np.float32).reshape(_shape(ops[node.output], graph))
            added = new.constant(f"{node.output}_shift", shift)
            nodes.append(Node("Add", (node.output, added), (names[node.output],), name=f"restore({node.output})"))
    return graph.with_nodes(nodes, new.constants)


def _bias(idx: Index, op: WeightedOp) -> tuple[Node, str] | None:
    """The addition of a constant that an operation's output goes to and nothing else does, and that constant."""
    if not idx.is_inner(op.name) or idx.consumers[op.name][0].op != "Add":
        return None
    (reader,) = idx.consumers[op.name]
    constant = [name for name in reader.inputs if idx.graph.is_constant(name)]
    return (reader, constant[0]) if constant else None


def _shape(op: WeightedOp, graph: Graph) -> tuple[int, ...]:
    """Of one number for each channel of an operation's output."""
    rank = graph.constants[op.weight].ndim
    return (1, -1, *[1] * (rank - 2)) if op.node.op == "Conv" else (-1,)
