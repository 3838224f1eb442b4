"""TensorRT and TensorRT-RTX: symmetric int8 as QuantizeLinear-DequantizeLinear pairs, in a graph of 16 bits.

Both take only strongly typed networks, so everything besides int8 must be float16 in the graph itself. With float32 in
the graph, norms and residuals would run in float32, and the engine would be slower than plain float16. If an activation
exceeds float16, bfloat16 replaces it everywhere, including scales: it has as many bytes, and engines have as many
kernels for it. Only the inputs of operations with weights have pairs. Their outputs, biases, norms and residuals stay
float16.

The builder supports neither zero points nor scales gathered by group, so both are arithmetic in the graph. Scales of
groups are a division before the pair and a product after the operation (`calibration/lowering/group_factors.py`). Where
the code is finer with a zero point, as after a SiLU, it is a subtraction before the pair and a sum after the operation
(`calibration/lowering/emulated_zero_points.py`):

    op(x, W) + bias      ==>      (op(pair(x / s / factor - c), s W) + c * sum of s W) * factor + bias

with s the per-channel scales (`calibration/lowering/channel_equalization.py`), if x has them. Groups share the zero
point, so that c is a constant. Separate zero points would need a gathered bias for each operation, for scales 1 %
finer.

If a convolution reads such an activation, an engine has more kernels than in float16, and moves as many bytes. So this
arithmetic is only used where the kernel that produces the activation includes it at no cost
(`lowering/tensorrt_qdq_placement.py`). Group factors stay before linear layers, where the product after the layer is
part of another kernel. Weights of convolutions have one scale for all channels. If samples lose too much with one range
for all steps, the body has one graph for each of a few intervals (`policy.CalibrationPolicy`). Kernels and bytes:
lab/measured/nvidia.md.

A CPU shows the effect of the pairs if onnxruntime does not fuse them (`OnnxRuntime(fuse_qdq=False)`). But it computes
in float32 where it has no float16 kernel, so neither rounding nor overflow of float16 shows. The rounding of bfloat16
does (`graph/passes/rounding.py`).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fewstep.calibration.lowering.channel_equalization import LEAST_GAIN_FUSED
from fewstep.calibration.lowering.coverage import count_coverage
from fewstep.calibration.lowering.emulated_zero_points import centre
from fewstep.calibration.lowering.encoding import choose_int8, product_name
from fewstep.calibration.lowering.group_factors import add_group_factors
from fewstep.calibration.lowering.qdq_pairs import lean_qdq_form
from fewstep.calibration.lowering.scheme import Scheme, Target
from fewstep.calibration.lowering.tensorrt_qdq_placement import (
    approximate_gelu,
    find_slower_operations,
    place_roundings,
)
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.index import index
from fewstep.graph.passes.half import float32_tensors, to_half
from fewstep.graph.selection import WeightedOp
from fewstep.measure.simulation import open_simulated
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.manifest import Coverage

BROKEN = "report this with the graph: a lowering of fewstep is wrong"


def check_pairs_on_inputs(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Check the structure that engines need: both inputs of each operation are quantized symmetrically, and no float
    has 32 bits. Return the coverage."""
    idx = index(lowered)
    for op in ops:
        node = idx.producers.get(product_name(op.name)) or idx.producers[op.name]
        while node.op in ("Add", "Mul") and any(map(lowered.is_constant, node.inputs)):  # a bias, ratios of channels
            node = idx.producers[next(name for name in node.inputs if not lowered.is_constant(name))]
        sources = [idx.producer(name, "DequantizeLinear") for name in node.inputs[:2]]
        if any(source is None or not lowered.is_constant(source.inputs[1]) for source in sources):
            raise UserError(f"{op.name!r} does not read 8 bits with constant scales", BROKEN)
        if any(lowered.constants[source.inputs[2]].any() for source in sources if source is not None):
            raise UserError(f"{op.name!r} reads 8 bits with a zero point, which engines do not support", BROKEN)
    for value in float32_tensors(lowered):
        raise UserError(f"{value.name!r} is still float32: an engine would compute it in float32", BROKEN)
    return count_coverage(prepared, [op.name for op in ops])


def make_target(half: np.dtype[Any]) -> Target:
    """Return the TensorRT target whose operations that are not int8 compute in the float type `half`."""
    note = () if half == FLOAT16 else (f"{half.name} around int8, which GPUs have from Ampere (sm80) on",)
    return Target(
        platform=replace(platforms.TENSORRT, notes=note),
        scheme=Scheme(
            encode=choose_int8,
            scale_dtype=half,
            form=lean_qdq_form(half),
            arithmetic=(add_group_factors, centre),
            least_gain=LEAST_GAIN_FUSED,
            placing=place_roundings,
            one_scale=frozenset({"Conv"}),
        ),
        rewrites=(approximate_gelu,),
        passes=(partial(to_half, half=half),),
        check=check_pairs_on_inputs,
        runs=open_simulated,
        slower=find_slower_operations,
        most_graphs=3,
    )


TENSORRT = replace(make_target(FLOAT16), wider=make_target(BFLOAT16))
