"""OpenVINO on x86 CPUs without VNNI: openvino with weights of 7 bits.

There oneDNN's kernels add pairs of 8-bit products in 16 bits with saturation, as those of ONNX Runtime do. See
`cpu_x86_7bit.py`. NNCF calls weights in half the range `overflow_fix`.
"""

from dataclasses import replace

from fewstep.calibration.lowering.targets.cpu_x86_7bit import CPU_X86_7BIT
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.runtime.bundle import platforms

OPENVINO_7BIT = replace(
    OPENVINO,
    platform=platforms.OPENVINO_7BIT,
    scheme=replace(OPENVINO.scheme, largest_weight=64),
    companions=CPU_X86_7BIT,
)
