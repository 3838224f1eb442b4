"""x86 CPUs through onnxruntime: uint8 activations, int8 weights per channel, integer kernels emitted directly.

This form follows from measurements in onnxruntime 1.31 on AVX512-VNNI (a UNet of 3.8 M parameters; numbers are percent
of a step). Per-group scales of QLinearConv at run time cost nothing. If a zero point of x or a bias is not constant,
QLinearConv loses its fastest kernel (11 %). So groups share zero points, and the bias is a float sum after the
convolution (2 %). Quantizing before a nearest-neighbour Resize loses time too (5 %), because Resize has no fast kernel
for uint8. A gathered scale in a QuantizeLinear-DequantizeLinear pair would leave the convolution in float.

Before a convolution, QuantizeLinear takes the per-channel scales. Before a matrix product, a layer norm takes them, or
they are a separate product. LEAST_GAIN keeps those that gain enough: more of them lose quality on some denoisers. After
convolutions they cost nothing. The other nodes between two convolutions are fused to pass over an image as rarely as
possible (`calibration/lowering/channel_scale_fusion.py`).
"""

from functools import partial

import numpy as np

from fewstep.calibration.lowering.channel_scale_fusion import fuse_channel_scales
from fewstep.calibration.lowering.coverage import check_coverage, integer_kernels
from fewstep.calibration.lowering.encoding import asymmetric_uint8, integer_name, scale_name, zero_point_name
from fewstep.calibration.lowering.norm_fusion import fuse_norms
from fewstep.calibration.lowering.scheme import Form, Replacement, Scheme, Target
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.passes.contrib_attention import hold_few_scores
from fewstep.graph.passes.mish import expand_mish
from fewstep.graph.selection import WeightedOp
from fewstep.graph.session import GraphSession, open_session
from fewstep.graph.weight_quantization import QuantizedWeight
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.manifest import Coverage

LEAST_GAIN = 6.0  # dB

open_deployed = partial(open_session, optimize=True, arena=True)


def open_with_exact_sums(graph: Graph) -> GraphSession:
    """Open a graph with 8-bit weights as it is deployed on this CPU."""
    return open_deployed(graph, wide_sums=platforms.needs_wide_sums(platforms.CPU_X86.name))


def emit_quantize(tensor: str) -> tuple[Node, ...]:
    return (Node("QuantizeLinear", (tensor, *_scale_and_zero_point(tensor)), (integer_name(tensor),)),)


def emit_operation(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    return _emit_convolution(op, weight) if op.node.op == "Conv" else _emit_product(op, weight)


def _emit_convolution(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    """Return QLinearConv, which rounds its output to 8 bits, and the conversion back to float."""
    if op.bias:
        raise UserError(
            f"convolution {op.name!r} has its bias as an input, which this target does not support",
            "export the model again: this version exports the bias as a separate Add",
        )
    constants = _weight_constants(op, weight)
    integer, scales, zeros = constants
    inputs = (integer_name(op.x), *_scale_and_zero_point(op.x), integer, scales, zeros, *_scale_and_zero_point(op.name))
    return Replacement(
        (
            Node("QLinearConv", inputs, (integer_name(op.name),), op.node.attributes, op.node.name),
            Node(
                "DequantizeLinear",
                (integer_name(op.name), *_scale_and_zero_point(op.name)),
                (op.name,),
                name=f"dequantize({op.name})",
            ),
        ),
        constants,
    )


def _emit_product(op: WeightedOp, weight: QuantizedWeight) -> Replacement:
    """Return MatMulIntegerToFloat: as fast as QLinearMatMul (measured), without rounding its output to 8 bits."""
    columns = weight if op.axis == 1 else QuantizedWeight(np.ascontiguousarray(weight.values.T), weight.scales, 1)
    constants = _weight_constants(op, columns)
    integer, scales, zeros = constants
    inputs = (integer_name(op.x), integer, scale_name(op.x), scales, zero_point_name(op.x), zeros, *op.bias)
    node = Node("MatMulIntegerToFloat", inputs, (op.name,), {}, op.node.name, "com.microsoft")
    return Replacement((node,), constants)


def _scale_and_zero_point(tensor: str) -> tuple[str, str]:
    return scale_name(tensor), zero_point_name(tensor)


def _weight_constants(op: WeightedOp, weight: QuantizedWeight) -> dict[str, Array]:
    """Return the integers, scales and zero points of a weight by name, in this order."""
    return {
        integer_name(op.code): weight.values,
        scale_name(op.code): weight.scales,
        zero_point_name(op.code): np.zeros_like(weight.scales, np.int8),
    }


def count_integer_kernels(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Open the graph as the runtime will, and count the integer kernels that onnxruntime chose."""
    weights = integer_kernels(lowered)
    ran = {op.name for op in ops if integer_name(op.code) in weights}
    return check_coverage(prepared, [op.name for op in ops], ran, "onnxruntime")


CPU_X86 = Target(
    platform=platforms.CPU_X86,
    scheme=Scheme(
        encode=asymmetric_uint8,
        scale_dtype=np.dtype(np.float32),
        form=Form(emit_quantize, emit_operation, encodes_output=lambda op: op.node.op == "Conv"),
        least_gain=LEAST_GAIN,
    ),
    rewrites=(hold_few_scores,),  # if sizes are dynamic, it needs the shapes after weights
    passes=(expand_mish,),
    finish=(fuse_channel_scales, fuse_norms),
    check=count_integer_kernels,
    runs=open_with_exact_sums,
)
