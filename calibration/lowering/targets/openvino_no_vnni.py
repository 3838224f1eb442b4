"""OpenVINO on x86 CPUs without VNNI: openvino with limited sums of pairs of weights (`graph/weight_pairs.py`).

There oneDNN's kernels add two 8-bit products in 16 bits with saturation, as those of ONNX Runtime do. Attention stays
float, since none of its products has a weight that could be limited.
"""

from dataclasses import replace

from fewstep.calibration.lowering.targets.cpu_x86_no_vnni import CPU_X86_NO_VNNI
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.runtime.bundle import platforms

OPENVINO_NO_VNNI = replace(
    OPENVINO,
    platform=platforms.OPENVINO_NO_VNNI,
    scheme=replace(OPENVINO.scheme, in_pairs=True, int8_attention=False),
    companions=CPU_X86_NO_VNNI,
)
