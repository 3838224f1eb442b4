"""x86 CPUs without VNNI: cpu-x86 with limited sums of pairs of weights (`graph/weight_pairs.py`).

There two 8-bit products are added in 16 bits with saturation, which silently corrupts sums beyond 32 767. With this
limit no sum exceeds it, so every x86 CPU computes the same integers. The runtime lets ONNX Runtime add products of
other weights in 32 bits, which is exact but slower.
"""

from dataclasses import replace

from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86, open_deployed
from fewstep.runtime.bundle import platforms

CPU_X86_NO_VNNI = replace(
    CPU_X86,
    platform=platforms.CPU_X86_NO_VNNI,
    scheme=replace(CPU_X86.scheme, in_pairs=True),
    runs=open_deployed,
)
