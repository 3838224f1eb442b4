"""Per-channel scales: the graph multiplies an activation before it is quantized, and the weights compensate.

    op(x, W)      ==>      op(x * m, W / m)           m: one number for each input channel
    op(x, W)      ==>      op(x, n W) / n             n: one for each output channel, if outputs are quantized too

Kernels take one scale for a whole activation. The numbers m are stored in the graph's compute type. Weights are divided
by exactly these stored numbers before they are rounded, so that only the rounding of the weights remains as an error.
W and n W have the same integers: n goes into the scales of the weights. The division by n is a product here, which
`channel_scale_fusion.py` fuses with adjacent nodes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.encoding import Encoding, name_after_equalization
from fewstep.calibration.lowering.scheme import Scheme
from fewstep.calibration.ranges.channel_scales import channel_gain
from fewstep.calibration.ranges.table import Ranges
from fewstep.graph.additions import NewNodes
from fewstep.graph.graph import Graph, Node
from fewstep.graph.selection import WeightedOp, bias_shape
from fewstep.graph.weight_quantization import QuantizedWeight

Float = NDArray[np.float64]
LEAST_GAIN_FUSED = -3.0  # dB, if engines fuse the product: about the cost of clipping with one scale (measured)


def encode_tensor(ranges: Ranges, grouped: bool, scheme: Scheme, least_gain: float) -> Encoding:
    """Return the quantization parameters of a tensor with these ranges for a target. Each channel gets its own scale if
    that reduces the error by at least `least_gain` dB."""
    by_channel = ranges.by_channel
    if by_channel is None or channel_gain(ranges) < least_gain:
        return scheme.encode(ranges, grouped)
    multipliers = (1 / np.array(by_channel.factors)).astype(scheme.scale_dtype).astype(np.float64)
    return replace(scheme.encode(by_channel.ranges, grouped), multipliers=multipliers)


def equalize_channels(
    prepared: Graph, ops: Sequence[WeightedOp], codes: Mapping[str, Encoding], scheme: Scheme
) -> tuple[Graph, tuple[WeightedOp, ...], dict[str, Encoding]]:
    """Return the graph with the multipliers of `codes` around `ops`, and the operations and codes with which it is to
    be lowered. Weights are unchanged; `equalize_weight` divides them later.

    Tensors keep their names and values; multiplied tensors are named by `name_after_equalization`.
    """
    new = NewNodes(prepared)
    selected = {op.name: op for op in ops}
    inner = {op.name: _inner_operation(op, codes, scheme) for op in ops}
    nodes: list[Node] = []
    products = set[str]()  # one product for all readers of an activation; none if an operation already writes it
    for node in prepared.nodes:
        op = selected.get(node.output)
        if op is None:
            nodes.append(node)
            continue
        x = codes[op.x].multipliers
        if x is not None and op.x not in products:
            nodes.append(_multiply_node(op.x, "multipliers", x, name_after_equalization(op.x), op, prepared, new))
            products.add(op.x)
        nodes.append(inner[op.name].node)
        y = _output_multipliers(op, codes, scheme)
        if y is not None:
            nodes.append(
                _multiply_node(name_after_equalization(op.name), "divisors", 1 / y, op.name, op, prepared, new)
            )
            products.add(op.name)
    names = {name: name if code.multipliers is None else name_after_equalization(name) for name, code in codes.items()}
    graph = prepared.with_nodes(nodes, new.constants)
    return graph, tuple(inner[op.name] for op in ops), {names[name]: code for name, code in codes.items()}


def equalize_weight(op: WeightedOp, prepared: Graph, codes: Mapping[str, Encoding]) -> NDArray[np.float32]:
    """Return the weight for an operation of `equalize_channels`, divided by the multipliers of its input."""
    weight, multipliers = prepared.constants[op.weight], codes[op.x].multipliers
    if multipliers is None:
        return weight
    return scale_inputs(np.divide, weight, op, multipliers)


def scale_inputs(scale: np.ufunc, weight: NDArray[np.float32], op: WeightedOp, numbers: Float) -> NDArray[np.float32]:
    """Return an operation's weight with each input channel multiplied or divided (`scale`) by a separate number."""
    scaled = np.empty(weight.shape, np.float32)
    rows, results = (np.moveaxis(array, op.axis, 0) for array in (weight, scaled))  # [outputs, inputs of a group, ...]
    outputs = len(rows) // op.groups
    for group, factors in enumerate(numbers.reshape(op.groups, -1, *[1] * (rows.ndim - 2))):
        part = slice(group * outputs, (group + 1) * outputs)
        scale(rows[part], factors, out=results[part], dtype=np.float64, casting="same_kind")
    return scaled


def equalize_scales(
    weight: QuantizedWeight, op: WeightedOp, codes: Mapping[str, Encoding], scheme: Scheme
) -> QuantizedWeight:
    """Return an operation's quantized weight, with the multipliers of its output (if any) in the scales."""
    multipliers = _output_multipliers(op, codes, scheme)
    if multipliers is None:
        return weight
    return replace(weight, scales=(weight.scales * multipliers).astype(np.float32))


def _output_multipliers(op: WeightedOp, codes: Mapping[str, Encoding], scheme: Scheme) -> Float | None:
    """Return the multipliers of an operation's output if it is quantized, else None."""
    return codes[op.name].multipliers if scheme.form.encodes_output(op) else None


def _inner_operation(op: WeightedOp, codes: Mapping[str, Encoding], scheme: Scheme) -> WeightedOp:
    """Return the operation between its multipliers: it reads the multiplied input, and writes the output before its
    division."""
    x = op.x if codes[op.x].multipliers is None else name_after_equalization(op.x)
    y = op.name if _output_multipliers(op, codes, scheme) is None else name_after_equalization(op.name)
    return replace(op, node=replace(op.node, inputs=(x, *op.node.inputs[1:]), outputs=(y,)))


def _multiply_node(x: str, called: str, numbers: Float, y: str, op: WeightedOp, prepared: Graph, new: NewNodes) -> Node:
    """Return a Mul that multiplies each channel of an operation's input or output by a separate number."""
    constant = new.constant(f"{x}_{called}", numbers.astype(np.float32).reshape(bias_shape(op, prepared)))
    return Node("Mul", (x, constant), (y,), name=f"channels({x})")
