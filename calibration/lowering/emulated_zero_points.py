"""Zero points for engines without them: the graph subtracts an offset from the activation, and corrects the output.

The outputs of SiLU are in [-0.28, high]. A symmetric code spends half of its values below zero, where hardly any values
are. With c = -zero_point * scale, the middle of the code's range:

    op(x, W) + bias      ==>      op(x - c, W) + (bias + c * sum of W)

The sum is over the rounded weights: where x is zero, as it nearly is for most outputs of a SiLU, the two terms cancel.
A sum of the float weights would multiply their rounding errors by c everywhere, which costs more than centring gains.
A convolution's zero padding becomes a separate node, because zero is -c there: Pad(x), then the convolution without
pads. An activation keeps a symmetric code if c * sum of W approaches the largest number of the graph's type.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.calibration.lowering.encoding import Encoding
from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Array, Graph, Node, rename_inputs
from fewstep.graph.half_types import largest_number
from fewstep.graph.index import Index, index
from fewstep.graph.selection import WeightedOp, bias_shape
from fewstep.graph.weight_quantization import QuantizedWeight


def centre(
    prepared: Graph,
    ops: Sequence[WeightedOp],
    codes: Mapping[str, Encoding],
    weights: Mapping[str, QuantizedWeight],
    dtype: np.dtype[Any],
) -> tuple[Graph, tuple[WeightedOp, ...], dict[str, Encoding]]:
    """Return the graph with the inputs of `ops` shifted by the zero points of their `codes`, and the operations and
    codes (without zero points) with which it is to be lowered. Each code must have one scale.

    `weights` are by operation; `dtype` is the compute type of the lowered graph. The bias after an operation shifts its
    output back. If there is no bias, one is added.
    """
    new = NewNodes(prepared)
    before: dict[str, tuple[Node, ...]] = {}
    inner: dict[str, WeightedOp] = {}
    shifts: dict[str, Array] = {}  # by operation: correction of its output, per channel
    plain = {x: code for x, code in codes.items() if not code.zero_point}
    greatest = largest_number(dtype) / 2  # the other half is for the product of x itself
    inputs: dict[tuple[str, tuple[int, ...]], str] = {}  # operations with the same input and pads share one tensor
    for op in ops:
        code, pads = codes[op.x], _pads(op)
        if not code.zero_point:
            continue
        scale = float(dtype.type(code.scales[0]))  # as rounded in the graph, so that the code contains zero
        middle = -int(code.zero_point) * scale
        weight = weights[op.name].dequantize().astype(np.float64)
        shift = middle * weight.sum(axis=tuple(axis for axis in range(weight.ndim) if axis != op.axis))
        if pads is None or np.abs(shift).max() > greatest:  # op(x - c, W) would overflow where op(x, W) does not
            plain[op.x] = _symmetric_code(code)
            continue
        key = (op.x, pads)
        if key not in inputs:
            before[op.name] = _subtract_zero_point(op.x, pads, middle, new)
            inputs[key] = before[op.name][-1].output
            plain[inputs[key]] = replace(code, scales=np.array([scale]), zero_point=np.int8(0))
        attributes = {name: value for name, value in op.node.attributes.items() if name != "pads"}
        node = replace(op.node, inputs=(inputs[key], *op.node.inputs[1:]), attributes=attributes)
        inner[op.name] = replace(op, node=node)
        shifts[op.name] = shift
    nodes: list[Node] = []
    for node in prepared.nodes:
        op_inside = inner.get(node.output)
        nodes.extend((*before.get(node.output, ()), node if op_inside is None else op_inside.node))
    graph, names = _add_back_shifts(prepared.with_nodes(nodes, new.constants), {op.name: op for op in ops}, shifts)
    # An operation may read another one's output directly, without a bias between
    renamed = (rename_inputs(inner.get(op.name, op).node, names) for op in ops)
    moved = tuple(replace(op, node=node) for op, node in zip(ops, renamed, strict=True))
    return graph, moved, {names.get(x, x): code for x, code in plain.items()}


def _symmetric_code(code: Encoding) -> Encoding:
    """Return quantization parameters without a zero point that cover the same values. They are for a convolution with
    unknown padding, and for an operation whose shift would overflow; other operations may read the same tensor with a
    zero point."""
    zero = int(code.zero_point)
    return replace(code, scales=code.scales * max(128 + zero, 127 - zero) / 127, zero_point=np.int8(0))


def _pads(op: WeightedOp) -> tuple[int, ...] | None:
    """Return the padding of a convolution, at the begin and the end of each axis; () for a matrix product; None if the
    graph does not state it."""
    if op.node.op != "Conv":
        return ()
    if op.node.attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", "NOTSET"):
        return None
    pads = tuple(op.node.attributes.get("pads", ()))
    return pads if any(pads) else ()


def _subtract_zero_point(x: str, pads: tuple[int, ...], middle: float, new: NewNodes) -> tuple[Node, ...]:
    """Return the nodes that pad the input, if there are pads, and subtract `middle`. The last node's output is the
    shifted input."""
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


def _add_back_shifts(
    graph: Graph, ops: dict[str, WeightedOp], shifts: dict[str, Array]
) -> tuple[Graph, Mapping[str, str]]:
    """Return the graph with each shift added to the bias after its operation, or by a new Add if there is no bias. Also
    return the outputs of the new Adds, by the names of the operations' outputs."""
    idx, new = index(graph), NewNodes(graph)
    biased = {name: _find_bias(idx, ops[name]) for name in shifts}
    places = {add.output: (name, bias) for name, addition in biased.items() if addition for add, bias in [addition]}
    names = {name: new.name(f"{name}_restored") for name, addition in biased.items() if not addition}
    nodes: list[Node] = []
    for node in graph.nodes:
        if node.output in places:
            name, bias = places[node.output]
            old = graph.constants[bias]
            value = (old + shifts[name].reshape(bias_shape(ops[name], graph))).astype(old.dtype)
            bias_with = new.constant(f"{bias}_restored", value)
            node = replace(node, inputs=tuple(bias_with if name == bias else name for name in node.inputs))
        nodes.append(rename_inputs(node, names))
        if node.output in names:
            shift = shifts[node.output].astype(np.float32).reshape(bias_shape(ops[node.output], graph))
            added = new.constant(f"{node.output}_shift", shift)
            nodes.append(Node("Add", (node.output, added), (names[node.output],), name=f"restore({node.output})"))
    return graph.with_nodes(nodes, new.constants), names


def _find_bias(idx: Index, op: WeightedOp) -> tuple[Node, str] | None:
    """Return the Add of a constant that is the only reader of an operation's output, and the constant's name. None if
    there is no such Add."""
    if not idx.is_inner(op.name) or idx.consumers[op.name][0].op != "Add":
        return None
    (reader,) = idx.consumers[op.name]
    constant = [name for name in reader.inputs if idx.graph.is_constant(name)]
    return (reader, constant[0]) if constant else None
