"""The int8 form for engines that take 8 bits as QuantizeLinear-DequantizeLinear pairs with constant scales.

A pair rounds a tensor to 8-bit integers and converts them back to floats. The engine fuses an operation and the pairs
on its inputs into one kernel, which multiplies the integers. The pair of a weight is stored as the integers and the
DequantizeLinear only. Only the inputs of operations with weights have pairs. Their outputs, biases, norms and residuals
keep the graph's float type.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.calibration.lowering.encoding import integer_name, name_after_rounding, scale_name, zero_point_name
from fewstep.calibration.lowering.scheme import Form, Replacement
from fewstep.graph.graph import Array, Node
from fewstep.graph.selection import WeightedOp
from fewstep.graph.weight_quantization import QuantizedWeight


def qdq_form(dtype: np.dtype[Any]) -> Form:
    """Return the functions that write an int8 graph with QuantizeLinear-DequantizeLinear pairs, whose float type is
    `dtype`."""
    return Form(emit_pair, lambda op, weight: emit_operation(op, weight, dtype), encodes_output=lambda op: False)


def lean_qdq_form(dtype: np.dtype[Any]) -> Form:
    """Return `qdq_form` with one scale in each weight's pair instead of one per channel; for the reason see
    `emit_lean_operation`. Weights of convolutions are rounded with one scale (`Scheme.one_scale`)."""
    return Form(emit_pair, lambda op, weight: emit_lean_operation(op, weight, dtype), encodes_output=lambda op: False)


def emit_pair(tensor: str) -> tuple[Node, ...]:
    """Return the pair of an activation."""
    code = scale_name(tensor), zero_point_name(tensor)
    return (
        Node("QuantizeLinear", (tensor, *code), (integer_name(tensor),)),
        Node("DequantizeLinear", (integer_name(tensor), *code), (name_after_rounding(tensor),)),
    )


def emit_operation(op: WeightedOp, weight: QuantizedWeight, dtype: np.dtype[Any]) -> Replacement:
    """Return the weight's DequantizeLinear, and the operation on the rounded activation and the rounded weight."""
    inputs = integer_name(op.code), scale_name(op.code), zero_point_name(op.code)
    constants: dict[str, Array] = {
        inputs[0]: weight.values,
        inputs[1]: weight.scales.astype(dtype),
        inputs[2]: np.zeros_like(weight.scales, np.int8),
    }
    node = op.node
    return Replacement(
        (
            Node("DequantizeLinear", inputs, (name_after_rounding(op.code),), {"axis": weight.axis}),
            replace(
                node,
                inputs=(name_after_rounding(op.x), name_after_rounding(op.code), *op.bias),
                attributes=_attributes(op, weight),
            ),
        ),
        constants,
    )


def emit_lean_operation(op: WeightedOp, weight: QuantizedWeight, dtype: np.dtype[Any]) -> Replacement:
    """Return the nodes of `emit_operation` with a single scale in the weight's pair, the largest of all channels. A
    product after the operation multiplies each channel by the ratio of its scale to the largest.

    If all channels have one scale, no product is needed. Convolutions need such weights: in an engine, a convolution
    writes float32 if its weight has per-channel scales, and float16 if the weight has one scale (tensorrt-rtx 1.7).
    """
    largest = weight.scales.astype(dtype).max()
    inputs = integer_name(op.code), scale_name(op.code), zero_point_name(op.code)
    constants: dict[str, Array] = {
        inputs[0]: weight.values,
        inputs[1]: np.array(largest, dtype),
        inputs[2]: np.array(0, np.int8),
    }
    nodes = [Node("DequantizeLinear", inputs, (name_after_rounding(op.code),), {})]
    read = (name_after_rounding(op.x), name_after_rounding(op.code))
    if (weight.scales == weight.scales[0]).all():
        alike = replace(op.node, inputs=(*read, *op.bias), attributes=_attributes(op, weight))
        return Replacement((*nodes, alike), constants)
    ratios = (weight.scales / np.float32(largest)).astype(dtype)
    constants[f"ratios({op.name})"] = ratios
    unscaled, scaled = f"unscaled({op.name})", f"scaled({op.name})" if op.bias else op.name
    nodes += [
        replace(op.node, inputs=read, outputs=(unscaled,)),
        Node("Mul", (unscaled, f"ratios({op.name})"), (scaled,)),
    ]
    if op.bias:
        nodes.append(Node("Add", (scaled, *op.bias), (op.name,)))
    return Replacement(tuple(nodes), constants)


def _attributes(op: WeightedOp, weight: QuantizedWeight) -> Mapping[str, Any]:
    """Return the operation's attributes and the kernel's shape: TensorRT up to 10.3 cannot infer it from a pair."""
    shape = {"kernel_shape": list(weight.values.shape[2:])} if op.node.op == "Conv" else {}
    return {**shape, **op.node.attributes}
