"""Weights of 8 bits with float activations: DequantizeLinear before each operation, and attention as one
MultiHeadAttention, which ONNX Runtime and OpenVINO run.

Steps are no faster than in float32, but the body takes about a quarter of its bytes, on disk and in memory.
"""

from typing import NoReturn

import numpy as np

from fewstep.calibration.lowering.coverage import count_coverage
from fewstep.calibration.lowering.scheme import Form, Scheme, Target
from fewstep.calibration.lowering.targets.cpu_x86 import open_deployed
from fewstep.runtime.bundle import platforms


def _refuse(*given: object) -> NoReturn:
    raise AssertionError("this target quantizes no activations")


INT8_WEIGHTS = Target(
    platform=platforms.INT8_WEIGHTS,
    scheme=Scheme(
        encode=_refuse,
        scale_dtype=np.dtype(np.float32),
        form=Form(_refuse, _refuse, _refuse),
        weight_bits=8,
    ),
    passes=(),
    check=lambda prepared, lowered, ops: count_coverage(prepared, ()),
    runs=open_deployed,
)
