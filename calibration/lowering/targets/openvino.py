"""OpenVINO's CPU plugin: uint8 activations, int8 weights per channel, QuantizeLinear-DequantizeLinear pairs in float32.

This form follows from measurements in OpenVINO 2026.4 on AVX512-VNNI (the shipped model; numbers are percent of a
step). Pairs on the inputs of weighted operations are enough for int8 kernels throughout. Pairs on their outputs as well
are 3 % slower, and 3 dB further from float, because they round results once more. uint8 and int8 activations take the
same time; symmetric ones are 3 dB worse, because outputs of SiLU are hardly negative. Norms and SiLU stay in float32.

The plugin takes only constant scales. So per-group scales are factors in the graph
(`calibration/lowering/group_factors.py`); the operation stays int8. Without the factors that gain less than 1 dB of a
tensor's error, a step takes 1 to 3 % less, but denoisers of the zoo lose up to 1.6 dB. The product for per-channel
scales before them is fused, at no measurable time.

Kernels of int8 convolutions have channels last. Operations between them keep that layout if nothing reshapes images,
and all inputs of a fused kernel have the same number of axes. So GroupNorm is expanded (`graph/passes/group_norm.py`),
and factors have the axes of an image. docs/quantization.md has the gain.
"""

from functools import partial

import numpy as np

from fewstep.calibration.lowering.channel_equalization import LEAST_GAIN_FUSED
from fewstep.calibration.lowering.constant_products import fold_constant_products
from fewstep.calibration.lowering.coverage import check_coverage
from fewstep.calibration.lowering.encoding import asymmetric_uint8, product_name
from fewstep.calibration.lowering.group_factors import add_group_factors
from fewstep.calibration.lowering.openvino_float_check import check_parts_agree
from fewstep.calibration.lowering.openvino_kernels import integer_operations, open_compiled
from fewstep.calibration.lowering.qdq_pairs import qdq_form
from fewstep.calibration.lowering.scheme import Scheme, Target
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.graph.graph import Graph
from fewstep.graph.passes.group_norm import expand_group_norm
from fewstep.graph.selection import WeightedOp
from fewstep.runtime.backends.openvino import OpenVino, import_openvino
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.manifest import Coverage
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.sampling.loading import load

FLOAT32 = np.dtype(np.float32)


def count_integer_kernels(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Compile the int8 graph with OpenVINO as the runtime does, and return the coverage: the operations for which
    OpenVINO chose integer kernels. Raises UserError if there are none."""
    integer = integer_operations(lowered)
    ran = {op.name for op in ops if not integer.isdisjoint((op.name, product_name(op.name)))}
    return check_coverage(prepared, [op.name for op in ops], ran, "OpenVINO")


def check_float_graphs(bundle: Bundle) -> None:
    """Raise UserError if OpenVINO cannot run the float32 body, conditioner and prologue, or computes them incorrectly.

    A large network is checked in parts, because OpenVINO packs weights, and would hold all of them twice.
    """
    body = bundle.manifest.bodies["float32"].graph
    if not body.data:
        load(bundle.path, backend=OpenVino())
        return
    for graph in (bundle.manifest.conditioner, bundle.manifest.prologue, body):
        if graph is not None:
            check_parts_agree(bundle, graph)


OPENVINO = Target(
    platform=platforms.OPENVINO,
    scheme=Scheme(
        encode=asymmetric_uint8,
        scale_dtype=FLOAT32,
        form=qdq_form(FLOAT32),
        arithmetic=(add_group_factors,),
        least_gain=LEAST_GAIN_FUSED,
        int8_attention=True,
    ),
    rewrites=(expand_group_norm,),
    passes=(),
    finish=(fold_constant_products,),
    check=count_integer_kernels,
    runs=partial(open_compiled, tensors=()),
    needs=import_openvino,
    tries=check_float_graphs,
    companions=CPU_X86,
)
