"""ARM CPUs through onnxruntime: int8 activations, int8 weights per channel, integer kernels emitted directly.

Activations are signed for two types of onnxruntime's ARM64 kernels. The symmetric matrix product supports filters with
zero points of 0 for int8 activations only. Direct convolutions (more than one tap, 64 input channels or more) read int8
directly but shift uint8 by 128. The zero point of an activation may be any constant. So this is cpu-x86 with every code
shifted by 128: the same scales, the same integers up to that shift, the same samples.
"""

from dataclasses import replace

from fewstep.calibration.lowering.encoding import asymmetric_int8
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86, open_deployed
from fewstep.runtime.bundle import platforms

CPU_ARM = replace(
    CPU_X86,
    platform=platforms.CPU_ARM,
    scheme=replace(CPU_X86.scheme, encode=asymmetric_int8),
    runs=open_deployed,
)
