"""Qualcomm's Hexagon (HTP) through QNN: activations of 16 bits, int8 weights per channel, and no float anywhere.

HTP computes only in integers, so every tensor has a QuantizeLinear-DequantizeLinear pair with constant scales
(`calibration/lowering/qdq_all_tensors.py`). 16 bits cover the range of all steps, so there are no groups. Weights are
rounded as for every other target.

onnxruntime-qnn also compiles on x86, and executes HTP's arithmetic there. On a step of the shipped model, ONNX's
arithmetic agrees with it to 73 dB or more. lab/measured/npu.md has the measurements, and the operations for which the
prediction fails.
"""

import numpy as np

from fewstep.calibration.lowering.coverage import MULTIPLY, count_coverage
from fewstep.calibration.lowering.encoding import asymmetric_uint16
from fewstep.calibration.lowering.qdq_all_tensors import add_pairs_to_all_tensors, qdq_all_tensors_form
from fewstep.calibration.lowering.scheme import Scheme, Target
from fewstep.graph.graph import Graph
from fewstep.graph.index import index
from fewstep.graph.selection import WeightedOp
from fewstep.measure.simulation import open_simulated
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle import platforms
from fewstep.runtime.bundle.manifest import Coverage

QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")


def check_no_float(prepared: Graph, lowered: Graph, ops: tuple[WeightedOp, ...]) -> Coverage:
    """Check that all multiplying operations read quantized tensors, and thus run in integers. Returns the coverage.
    Raises UserError if one does not."""
    idx = index(lowered)
    for node in lowered.nodes:
        for name in node.inputs[:2] if node.op in MULTIPLY else ():
            source = idx.producers.get(name)
            if source is None or source.op not in QUANTIZERS:
                raise UserError(
                    f"{node.output!r} reads {name!r} in float, which this target does not support",
                    "report this with the graph",
                )
    return count_coverage(prepared, [node.output for node in prepared.nodes if node.op in MULTIPLY])


QNN = Target(
    platform=platforms.QNN,
    scheme=Scheme(
        encode=asymmetric_uint16, scale_dtype=np.dtype(np.float32), form=qdq_all_tensors_form(), no_floats=True
    ),
    passes=(),
    finish=(add_pairs_to_all_tensors,),
    check=check_no_float,
    runs=open_simulated,
)
