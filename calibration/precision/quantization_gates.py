"""A float body whose rounding is switched by gates: an additional input has a number for each operation, 0 for float
and 1 for int8.

    the operation reads x + g (rounded(x) - x), and writes y + g (rounded(y) - y)

Weights likewise go from w to rounded(w). One session thus measures the effect of any set of int8 operations on a
sample, where lowering would need a graph for each set.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.encoding import (
    Encoding,
    integer_name,
    name_after_rounding,
    scale_name,
    zero_point_name,
)
from fewstep.calibration.lowering.group_scales import GROUP_INPUT
from fewstep.calibration.lowering.quantize import scales_and_zero_points
from fewstep.calibration.lowering.scheme import Scheme
from fewstep.graph.graph import Array, Graph, Node, Value
from fewstep.graph.selection import WeightedOp, bias_shape

GATES = "gates()"  # name of the input, float32 [operations]


def add_quantization_gates(
    prepared: Graph,
    ops: Sequence[WeightedOp],
    codes: Mapping[str, Encoding],
    scheme: Scheme,
    weights: Mapping[str, NDArray[np.float32]],
) -> Graph:
    """Return the prepared graph with an additional input `GATES`, which has one number for each of `ops`, in their
    order. The number switches the operation from float32 (0) to int8 (1).

    weights: rounded weights in float, by operation name. Other weights are neither changed nor copied. Every operation
        reads and writes values quantized as in the scheme. Factors and shifts that emulate quantization parameters for
        an engine are omitted, since the rounding is the same without them.
    """
    groups = max(len(code.scales) for code in codes.values())
    sources = scales_and_zero_points(codes, np.dtype(np.float32))
    gates = {op.name: f"gate({op.name})" for op in ops}
    split = Node("Split", (GATES,), tuple(gates.values()), {"axis": 0, "num_outputs": len(gates)})
    nodes, constants = [split, *sources.nodes], dict[str, Array](sources.constants)
    selected, known = {op.name: op for op in ops}, set[str]()

    def error(tensor: str, op: WeightedOp) -> None:
        """Add the nodes that compute the tensor `error_name`, once."""
        if tensor not in known:
            known.add(tensor)
            added, numbers = _error_nodes(tensor, codes[tensor].multipliers, op, prepared)
            nodes.extend(added)
            constants.update(numbers)

    for node in prepared.nodes:
        op = selected.get(node.output)
        if op is None:
            nodes.append(node)
            continue
        error(op.x, op)
        nodes += _gate_nodes(op.x, gates[op.name], f"read({op.name})")
        weight = op.weight
        if op.name in weights:
            weight = f"weight({op.name})"
            constants[error_name(weight)] = weights[op.name] - prepared.constants[op.weight]
            first, last = _gate_nodes(op.weight, gates[op.name], weight)
            nodes += (replace(first, inputs=(error_name(weight), gates[op.name])), last)
        inputs = (f"read({op.name})", weight, *node.inputs[2:])
        if not scheme.form.encodes_output(op):
            nodes.append(replace(node, inputs=inputs))
            continue
        plain = f"plain({op.name})"
        nodes.append(replace(node, inputs=inputs, outputs=(plain,)))
        added, numbers = _error_nodes(op.name, codes[op.name].multipliers, op, prepared, plain)
        nodes += (*added, *_gate_nodes(plain, gates[op.name], op.name))
        constants.update(numbers)
    group = (GROUP_INPUT,) if groups > 1 else ()
    port = Value(GATES, np.dtype(np.float32), (len(gates),))
    return replace(prepared.with_nodes(nodes, constants), inputs=(*prepared.inputs, *group, port))


def error_name(tensor: str) -> str:
    """Return the name of a tensor's rounding error."""
    return f"error({tensor})"


def _gate_nodes(tensor: str, gate: str, result: str) -> tuple[Node, Node]:
    """Return the nodes that compute `result`: the tensor plus its quantization error multiplied by a gate (0 for
    float32, 1 for int8)."""
    share = f"share({result})"
    return Node("Mul", (error_name(tensor), gate), (share,)), Node("Add", (tensor, share), (result,))


def _error_nodes(
    name: str, multipliers: NDArray[np.float64] | None, op: WeightedOp, prepared: Graph, tensor: str = ""
) -> tuple[list[Node], dict[str, Array]]:
    """Return the nodes and constants that compute the quantization error of a tensor, named `error_name`. The
    quantization parameters are those of `name` (by default the tensor itself). Channels are multiplied before
    quantization, and divided after it."""
    tensor, code = tensor or name, (scale_name(name), zero_point_name(name))
    integer, back = integer_name(tensor), name_after_rounding(tensor)
    if multipliers is None:
        way = [
            Node("QuantizeLinear", (tensor, *code), (integer,)),
            Node("DequantizeLinear", (integer, *code), (back,)),
        ]
        constants: dict[str, Array] = {}
    else:
        numbers = multipliers.astype(np.float32).reshape(bias_shape(op, prepared))
        by, even, through = f"by({tensor})", f"even({tensor})", f"through({tensor})"
        constants = {by: numbers}
        way = [
            Node("Mul", (tensor, by), (even,)),
            Node("QuantizeLinear", (even, *code), (integer,)),
            Node("DequantizeLinear", (integer, *code), (through,)),
            Node("Div", (through, by), (back,)),
        ]
    return [*way, Node("Sub", (back, tensor), (error_name(tensor),))], constants
