"""The form of engines that read 8 bits as QuantizeLinear-DequantizeLinear pairs with constant scales.

Pairs stand on the inputs of operations with weights and nowhere else: what these return, biases, norms and residuals
keep the graph's float type.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from fewstep.calibration.lowering.encoding import integer_of, scale_of, zero_point_of
from fewstep.calibration.lowering.scheme import Form, Replacement
from fewstep.calibration.lowering.weights import QuantizedWeight
from fewstep.graph.graph import Array, Node
from fewstep.graph.selection import WeightedOp


def pairs(dtype: np.dtype[Any]) -> Form:
    """The form in a graph that computes in `dtype`."""
    return Form(quantize, lambda op, weight: operation(op, weight, dtype), encodes_output=lambda op: False)


def quantize(tensor: str) -> tuple[Node, ...]:
    """The way of a tensor to 8 bits and back."""
    code = scale_of(tensor), zero_point_of(tensor)
    return (
        Node("QuantizeLinear", (tensor, *code), (integer_of(tensor),)),
        Node("DequantizeLinear", (integer_of(tensor), *code), (rounded(tensor),)),
    )


def operation(op: WeightedOp, weight: QuantizedWeight, dtype: np.dtype[Any]) -> Replacement:
    """The operation itself, on the rounded activation and the rounded weight; it is the last of the nodes."""
    inputs = integer_of(op.code), scale_of(op.code), zero_point_of(op.code)
    constants: dict[str, Array] = {
        inputs[0]: weight.values,
        inputs[1]: weight.scales.astype(dtype),
        inputs[2]: np.zeros_like(weight.scales, np.int8),
    }
    node = op.node
    return Replacement(
        (
            Node("DequantizeLinear", inputs, (rounded(op.code),), {"axis": weight.axis}),
            replace(node, inputs=(rounded(op.x), rounded(op.code), *op.bias)),
        ),
        constants,
    )


def rounded(tensor: str) -> str:
    """The name of a tensor after its way to 8 bits and back."""
    return f"rounded({tensor})"
