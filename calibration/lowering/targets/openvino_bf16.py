"""OpenVINO's CPU plugin with bf16 instead of float32, on processors with bf16 multiplication (AVX512-BF16, AMX).

Convolutions multiply int8 as in `openvino.py`. Operations between them read and write half the bytes. GroupNorm is not
expanded: it stays one kernel, with its mean in float32. Expanded, it would round the mean to bf16, which shifts
channels of a large mean as a whole. docs/quantization.md has the figures.
"""

from dataclasses import replace
from functools import partial

from fewstep.calibration.lowering.openvino_kernels import open_compiled
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.bundle import platforms

OPENVINO_BF16 = replace(
    OPENVINO,
    platform=platforms.OPENVINO_BF16,
    rewrites=(),
    runs=partial(open_compiled, tensors=(), backend=OpenVino(float_type="bf16")),
)
