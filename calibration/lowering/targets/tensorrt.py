"""TensorRT and TensorRT-RTX: symmetric int8 as QuantizeLinear-DequantizeLinear pairs, in a float16 graph.

Both take strongly typed networks only, so what isn't int8 must be float16 in the graph itself: over float32 the norms
and residuals would run in float32 and the whole lose to plain float16. Pairs stand on the inputs of operations with
weights and nowhere else: what these return, biases, norms and residuals stay float16.

A symmetric code has no zero point, and SiLU leaves next to nothing below zero: half of the numbers would never be used.
So activations are centred by the graph (`lowering/centring.py`): a subtraction and, where a convolution has pads, a Pad
in front of the pair. On the shipped model that was worth about 4 dB (simulated, 8 held-out seeds); what it costs on a
GPU is not measured.

Scales are constants, pooled over the groups: the builder takes no others. A factor per group around an operation
without bias, Mul(x, f) -> pair -> operation -> Mul(1 / f), would give each group its own range; the factors are not
part of this target yet.

A CPU shows what the pairs do, with onnxruntime told to leave them where they stand (`OnnxRuntime(fuse_qdq=False)`), but
it computes in float32 what it has no float16 kernel for: neither the rounding nor the overflow of float16 is seen.
"""

import numpy as np

from fewstep.calibration.lowering.coverage import count
from fewstep.calibration.lowering.encoding import symmetric_int8
from fewstep.calibration.lowering.pairs import pairs
from fewstep.calibration.lowering.scheme import Scheme, Target
from fewstep.calibration.lowering.selection import WeightedOp
from fewstep.graph.graph import Graph
from fewstep.graph.index import index
from fewstep.graph.passes.float16 import float32_tensors, to_float16
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Coverage

BROKEN = "report this with the graph: a lowering of fewstep is wrong"


def pairs_on_inputs_only(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Check the structure that engines need: both inputs of each operation rounded, all else float16."""
    idx = index(lowered)
    for op in ops:
        node = idx.producers[op.name]
        sources = [idx.producer(name, "DequantizeLinear") for name in node.inputs[:2]]
        if any(source is None or not lowered.is_constant(source.inputs[1]) for source in sources):
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
        form=pairs(np.dtype(np.float16)),
        centred=True,
    ),
    passes=(to_float16,),
    check=pairs_on_inputs_only,
    notes=("scales are pooled over the groups of lambda",),
)
