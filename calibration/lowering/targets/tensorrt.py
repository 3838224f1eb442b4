"""TensorRT and TensorRT-RTX: symmetric int8 as QuantizeLinear-DequantizeLinear pairs, in a graph of 16 bits.

Both take strongly typed networks only, so what isn't int8 must be float16 in the graph itself. With float32 in the
graph, norms and residuals would run in float32, and the whole lose to plain float16. Where an activation is beyond
float16, bfloat16 takes its place everywhere, scales among it: it has as many bytes, and engines as many kernels. Pairs
stand on the inputs of operations with weights and nowhere else: what these return, biases, norms and residuals stay
float16.

The builder takes neither zero points nor scales that are gathered by group, so both are arithmetic in the graph: a
division in front of the pair and a product behind the operation (`calibration/lowering/factors.py`); and, where the
code is finer for it, as behind a SiLU, a subtraction in front and a sum behind (`calibration/lowering/centring.py`):

    op(x, W) + bias      ==>      (op(pair(x / s / factor - c), s W) + c * sum of s W) * factor + bias

with s of scales of channels (`calibration/lowering/channels.py`), where x has them. Groups share the zero point, so
that c is a constant. Zero points of their own would need a bias gathered for each operation, for scales 1 % finer.

Where a convolution reads such an activation, an engine has more kernels than float16's, and moves as many bytes. So
these parts stand only where the kernel that makes an activation has them for nothing (`lowering/roundings.py`).
Factors of groups stay where a linear layer reads; there the product behind is part of another kernel. Weights of
convolutions have one scale for all channels. Where samples lose too much by one range for all steps, the body has a
graph for each of a few intervals (`body_maker.ENOUGH`). Kernels and bytes: docs/measured/nvidia.md.

A CPU shows what the pairs do, where onnxruntime leaves them as they stand (`OnnxRuntime(fuse_qdq=False)`), but it
computes in float32 where it has no float16 kernel: neither the rounding nor the overflow of float16 is seen. The
rounding of bfloat16 is (`graph/passes/rounding.py`).
"""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from fewstep.calibration.lowering.centring import centre
from fewstep.calibration.lowering.channels import LEAST_GAIN_FUSED
from fewstep.calibration.lowering.coverage import count
from fewstep.calibration.lowering.encoding import centred_int8, product_of
from fewstep.calibration.lowering.factors import factored
from fewstep.calibration.lowering.pairs import lean_pairs
from fewstep.calibration.lowering.roundings import placing, slower, tanh_gelu
from fewstep.calibration.lowering.scheme import Scheme, Target
from fewstep.graph.graph import Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.index import index
from fewstep.graph.passes.half import float32_tensors, to_half
from fewstep.graph.selection import WeightedOp
from fewstep.measure.simulation import simulated
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.manifest import Coverage

BROKEN = "report this with the graph: a lowering of fewstep is wrong"


def pairs_on_inputs_only(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Check the structure that engines need: both inputs of each operation rounded around zero, all else 16 bits."""
    idx = index(lowered)
    for op in ops:
        node = idx.producers.get(product_of(op.name)) or idx.producers[op.name]
        while node.op in ("Add", "Mul") and any(map(lowered.is_constant, node.inputs)):  # a bias, ratios of channels
            node = idx.producers[next(name for name in node.inputs if not lowered.is_constant(name))]
        sources = [idx.producer(name, "DequantizeLinear") for name in node.inputs[:2]]
        if any(source is None or not lowered.is_constant(source.inputs[1]) for source in sources):
            raise UserError(f"{op.name!r} does not read 8 bits with constant scales", BROKEN)
        if any(lowered.constants[source.inputs[2]].any() for source in sources if source is not None):
            raise UserError(f"{op.name!r} reads 8 bits with a zero point, which an engine does not take", BROKEN)
    for value in float32_tensors(lowered):
        raise UserError(f"{value.name!r} stays float32, which an engine would compute in float32", BROKEN)
    return count(prepared, [op.name for op in ops])


def around(half: np.dtype[Any]) -> Target:
    """The target with this float type of 16 bits around int8."""
    note = () if half == FLOAT16 else (f"{half.name} around int8, which GPUs have from Ampere (sm80) on",)
    return Target(
        platform=replace(platforms.TENSORRT, notes=note),
        scheme=Scheme(
            encode=centred_int8,
            scale_dtype=half,
            form=lean_pairs(half),
            arithmetic=(factored, centre),
            least_gain=LEAST_GAIN_FUSED,
            placing=placing,
            one_scale=frozenset({"Conv"}),
        ),
        rewrites=(tanh_gelu,),
        passes=(partial(to_half, half=half),),
        check=pairs_on_inputs_only,
        runs=simulated,
        slower=slower,
        most_graphs=3,
    )


TENSORRT = replace(around(FLOAT16), wider=around(BFLOAT16))
