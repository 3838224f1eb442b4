"""x86 CPUs through onnxruntime: uint8 activations, int8 weights per channel, integer kernels emitted directly.

Measurements in onnxruntime 1.31 on AVX512-VNNI shaped this form (a 3.8 M parameter UNet; percent of a step).
QLinearConv takes its scales at run time for nothing. A zero point of x or a bias that isn't constant loses its fastest
kernel (11 %). Hence groups share zero points, and the bias is a float sum behind (2 %). Quantizing before a
nearest-neighbour Resize loses too (5 %): on uint8 that has no fast kernel. A gathered scale in a
QuantizeLinear-DequantizeLinear pair would leave the convolution in float. QuantizeLinear takes the scales of channels
in front of a convolution; in front of a product of matrices a layer norm does, or they are a product of their own.
LEAST_GAIN leaves those that win enough: more of them lose quality on some denoisers. Behind convolutions they cost
nothing. The rest between two convolutions goes over a picture as seldom as it can
(`calibration/lowering/channel_forms.py`).
"""

from functools import partial

import numpy as np

from fewstep.calibration.lowering.channel_forms import channel_forms
from fewstep.calibration.lowering.coverage import complete, integer_kernels
from fewstep.calibration.lowering.encoding import asymmetric_uint8, integer_of, scale_of, zero_point_of
from fewstep.calibration.lowering.norm_forms import norm_forms
from fewstep.calibration.lowering.scheme import Form, Replacement, Scheme, Target
from fewstep.calibration.lowering.weights import QuantizedWeight
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.passes.attention_in_parts import attention_in_parts
from fewstep.graph.passes.mish import expand_mish
from fewstep.graph.selection import WeightedOp
from fewstep.graph.session import open_session
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.manifest import Coverage

LEAST_GAIN = 6.0  # dB


def quantize(tensor: str) -> tuple[Node, ...]:
    return (Node("QuantizeLinear", (tensor, *_code(tensor)), (integer_of(tensor),)),)


def operation(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    return _convolution(op, weight) if op.node.op == "Conv" else _product(op, weight)


def _convolution(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    """QLinearConv, which rounds what it computes to 8 bits, and the way back to float."""
    if op.bias:
        raise UserError(f"convolution {op.name!r} has a bias inside", "export again: prepared graphs keep it outside")
    constants = _weight_constants(op, weight)
    integer, scales, zeros = constants
    inputs = (integer_of(op.x), *_code(op.x), integer, scales, zeros, *_code(op.name))
    return Replacement(
        (
            Node("QLinearConv", inputs, (integer_of(op.name),), op.node.attributes, op.node.name),
            Node("DequantizeLinear", (integer_of(op.name), *_code(op.name)), (op.name,), name=f"dequantize({op.name})"),
        ),
        constants,
    )


def _product(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    """MatMulIntegerToFloat: as fast as QLinearMatMul (measured), without rounding what it computes to 8 bits."""
    columns = weight if op.axis == 1 else QuantizedWeight(np.ascontiguousarray(weight.values.T), weight.scales, 1)
    constants = _weight_constants(op, columns)
    integer, scales, zeros = constants
    inputs = (integer_of(op.x), integer, scale_of(op.x), scales, zero_point_of(op.x), zeros, *op.bias)
    node = Node("MatMulIntegerToFloat", inputs, (op.name,), {}, op.node.name, "com.microsoft")
    return Replacement((node,), constants)


def _code(tensor: str) -> tuple[str, str]:
    return scale_of(tensor), zero_point_of(tensor)


def _weight_constants(op: WeightedOp, weight: QuantizedWeight) -> dict[str, Array]:
    """Integers, scales and zero points, in this order."""
    return {
        integer_of(op.code): weight.values,
        scale_of(op.code): weight.scales,
        zero_point_of(op.code): np.zeros_like(weight.scales, np.int8),
    }


def integer_kernels_run(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Open the graph as the runtime will, and count the integer kernels that onnxruntime chose."""
    weights = integer_kernels(lowered)
    ran = {op.name for op in ops if integer_of(op.code) in weights}
    return complete(prepared, [op.name for op in ops], ran, "onnxruntime")


CPU_X86 = Target(
    platform=platforms.CPU_X86,
    scheme=Scheme(
        encode=asymmetric_uint8,
        scale_dtype=np.dtype(np.float32),
        form=Form(quantize, operation, encodes_output=lambda op: op.node.op == "Conv"),
        least_gain=LEAST_GAIN,
    ),
    rewrites=(attention_in_parts,),  # which needs the shapes behind weights, where sizes are free
    passes=(expand_mish,),
    finish=(channel_forms, norm_forms),
    check=integer_kernels_run,
    runs=partial(open_session, optimize=True, arena=True),
)
