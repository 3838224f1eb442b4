"""x86 CPUs without VNNI: cpu-x86 with weights of 7 bits.

There, pairs of 8-bit products are added in 16 bits with saturation (VPMADDUBSW), which silently corrupts sums beyond
32 767. With weights in [-64, 64] the largest is 255 * 64 + 255 * 64 = 32 640: every CPU computes the same integers.
The runtime lets ONNX Runtime add products of wider weights in 32 bits, which is exact but slower.
"""

from dataclasses import replace

from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86, open_deployed
from fewstep.runtime.bundle import platforms

CPU_X86_7BIT = replace(
    CPU_X86,
    platform=platforms.CPU_X86_7BIT,
    scheme=replace(CPU_X86.scheme, largest_weight=64),
    runs=open_deployed,
)
