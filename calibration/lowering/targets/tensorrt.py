"""TensorRT and TensorRT-RTX: symmetric int8 as QuantizeLinear-DequantizeLinear pairs, in a float16 graph.

Both take strongly typed networks only, so what isn't int8 must be float16 in the graph itself: over float32 the norms
and residuals would run in float32 and the whole lose to plain float16. Pairs stand on the inputs of operations with
weights and nowhere else: what these return, biases, norms and residuals stay float16.

Scales are constants, pooled over the groups: the builder takes no others. A factor per group around an operation
without bias, Mul(x, f) -> pair -> operation -> Mul(1 / f), would give each group its own range; the factors are not
part of this target yet.

A CPU shows what the pairs do, with onnxruntime told to leave them where they stand (`OnnxRuntime(fuse_qdq=False)`), but
it computes in float32 what it has no float16 kernel for: neither the rounding nor the overflow of float16 is seen.
"""

from dataclasses import replace

import numpy as np

from fewstep.calibration.lowering.coverage import count
from fewstep.calibration.lowering.encoding import integer_of, scale_of, symmetric_int8, zero_point_of
from fewstep.calibration.lowering.float16 import float32_tensors, to_float16
from fewstep.calibration.lowering.scheme import Emitted, Form, Scheme, Target
from fewstep.calibration.lowering.selection import WeightedOp
from fewstep.calibration.weights import QuantizedWeight
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.index import index
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Coverage

BROKEN = "report this with the graph: a lowering of fewstep is wrong"


def quantize(tensor: str) -> tuple[Node, ...]:
    code = scale_of(tensor), zero_point_of(tensor)
    return (
        Node("QuantizeLinear", (tensor, *code), (integer_of(tensor),)),
        Node("DequantizeLinear", (integer_of(tensor), *code), (rounded(tensor),)),
    )


def operation(op: WeightedOp, weight: QuantizedWeight) -> Emitted:
    """The operation itself, on the rounded activation and the rounded weight."""
    inputs = integer_of(op.code), scale_of(op.code), zero_point_of(op.code)
    constants: dict[str, Array] = {
        inputs[0]: weight.values,
        inputs[1]: weight.scales.astype(np.float16),
        inputs[2]: np.zeros_like(weight.scales, np.int8),
    }
    node = op.node
    return Emitted(
        (
            Node("DequantizeLinear", inputs, (rounded(op.code),), {"axis": weight.axis}),
            replace(node, inputs=(rounded(op.x), rounded(op.code), *op.bias)),
        ),
        constants,
    )


def rounded(tensor: str) -> str:
    """The name of a tensor after its way to 8 bits and back."""
    return f"rounded({tensor})"


def pairs_on_inputs_only(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Check the structure that engines need: both inputs of each operation rounded, all else float16."""
    idx = index(lowered)
    for op in ops:
        node = idx.producers[op.name]
        pairs = [idx.producer(name, "DequantizeLinear") for name in node.inputs[:2]]
        if any(pair is None or not lowered.is_constant(pair.inputs[1]) for pair in pairs):
            raise UserError(f"{op.name!r} does not read 8 bits with constant scales", BROKEN)
    for value in float32_tensors(lowered):
        raise UserError(f"{value.name!r} stays float32, which an engine would compute in float32", BROKEN)
    return count(prepared, [op.name for op in ops])


TENSORRT = Target(
    name="tensorrt",
    scheme=Scheme(
        encode=symmetric_int8,
        scale_dtype=np.dtype(np.float16),
        grouped=False,
        form=Form(quantize, operation, encodes_output=lambda op: False),
    ),
    passes=(to_float16,),
    check=pairs_on_inputs_only,
    notes=("scales are pooled over the groups of lambda",),
)
