"""OpenVINO's CPU plugin: uint8 activations, int8 weights per channel, QuantizeLinear-DequantizeLinear pairs in float32.

What shaped this form, measured in OpenVINO 2026.4 on AVX512-VNNI (the shipped model; percent of a step): pairs on the
inputs of weighted operations are enough for int8 kernels throughout. Pairs on their outputs too are 3 % slower, and
3 dB further from float, for what operations return is rounded once more. uint8 and int8 activations take the same time;
symmetric ones are 3 dB worse, as SiLU leaves little below zero. Norms and SiLU stay in float32.

The plugin takes constant scales only. Where scales are gathered by group they therefore stand around the pair, which
has the scale one; the operation stays int8:

    op(x, W)      ==>      op(pair(x / scale), W) * scale

For 12 % of a step that wins 1 dB at 8 steps and 2 dB at 4. With constant scales the form is no use: folding them, the
plugin may leave an operation in float.
"""

from dataclasses import replace

import numpy as np

from fewstep.calibration.lowering.coverage import complete
from fewstep.calibration.lowering.encoding import asymmetric_uint8, scale_of
from fewstep.calibration.lowering.executed import integer_operations
from fewstep.calibration.lowering.pairs import operation, pair, pairs
from fewstep.calibration.lowering.scheme import Emitted, Form, Scheme, Target
from fewstep.calibration.lowering.selection import WeightedOp
from fewstep.calibration.weights import QuantizedWeight
from fewstep.graph.graph import Graph, Node
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Coverage

FLOAT32 = np.dtype(np.float32)
ONE = "one()"


def quantize_gathered(tensor: str) -> tuple[Node, ...]:
    divide = Node("Div", (tensor, scale_of(tensor)), (scaled(tensor),), name=f"scale({tensor})")
    return (divide, *pair(tensor, scaled(tensor), ONE))


def operation_gathered(op: WeightedOp, weight: QuantizedWeight) -> Emitted:
    """The operation on what is left of the activation without its scale, times the scale, plus the bias."""
    if op.bias and op.node.op == "Conv":
        raise UserError(f"convolution {op.name!r} has a bias inside", "export again: prepared graphs keep it outside")
    emitted = operation(op, weight, FLOAT32)
    *before, node = emitted.nodes
    result = f"unbiased({op.name})" if op.bias else op.name
    product = (
        replace(node, inputs=node.inputs[:2], outputs=(unscaled(op.name),)),
        Node("Mul", (unscaled(op.name), scale_of(op.x)), (result,), name=f"unscale({op.name})"),
    )
    bias = (Node("Add", (result, *op.bias), (op.name,), name=f"bias({op.name})"),) if op.bias else ()
    return Emitted((*before, *product, *bias), emitted.constants | {ONE: np.ones((), np.float32)})


def scaled(tensor: str) -> str:
    return f"scaled({tensor})"


def unscaled(tensor: str) -> str:
    return f"unscaled({tensor})"


def integer_kernels_run(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Compile the graph as the runtime will, and count the integer kernels that OpenVINO chose."""
    found = integer_operations(lowered)
    ran = {op.name for op in ops if not found.isdisjoint((op.name, unscaled(op.name)))}
    return complete(prepared, [op.name for op in ops], ran, "OpenVINO")


OPENVINO = Target(
    name="openvino",
    scheme=Scheme(
        encode=asymmetric_uint8,
        scale_dtype=FLOAT32,
        grouped=True,
        form=pairs(FLOAT32),
        gathered=Form(quantize_gathered, operation_gathered, encodes_output=lambda op: False),
    ),
    passes=(),
    check=integer_kernels_run,
    notes=("exact on CPUs with VNNI only: others may add pairs of 8-bit products in 16 bits, and saturate",),
)
