"""Weights of 4 bits for matrix products, and of 8 bits for convolutions, with float activations.

Products are MatMulNBits, which onnxruntime has for CPUs, CUDA and WebGPU, and OpenVINO reads. No engine multiplies
convolutions by weights of 4 bits.
"""

from dataclasses import replace

from fewstep.calibration.lowering.targets.int8_weights import INT8_WEIGHTS
from fewstep.runtime.bundle import platforms

INT4_WEIGHTS = replace(
    INT8_WEIGHTS,
    platform=platforms.INT4_WEIGHTS,
    scheme=replace(INT8_WEIGHTS.scheme, weight_bits=4),
)
