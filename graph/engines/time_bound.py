"""A lower bound on the time of an engine's kernels on a device, not a measurement.

The bound of a kernel is the time of its bytes at the device's bandwidth, or of its MACs at the device's peak, whichever
is longer, plus a launch. All bytes count as if nothing were cached. A GPU whose cache holds all tensors of a step can
therefore be faster than the bound.
"""

from dataclasses import dataclass

from fewstep.graph.engines.kernels import Kernels

LAUNCH = 0.5e-6  # seconds a kernel in a CUDA graph: 3.4 us for kernels of 2.9 us (NVIDIA, "Getting Started with CUDA
# Graphs", 2019, a V100)


@dataclass(frozen=True)
class Device:
    """A GPU as its data sheet describes it.

    kernels: the compute capability whose engine is counted: the GPU's own, or the nearest one for which TensorRT-RTX
        builds.
    bandwidth: bytes per second.
    int8, float16: dense operations per second of the tensor cores, with 2 operations per MAC. float16 accumulates in
        float16, which is the faster mode.
    """

    name: str
    kernels: str
    bandwidth: float
    int8: float
    float16: float

    def peak(self, kind: str) -> float:
        """Return the operations per second of the tensor cores for this type. Data sheets give none for float32, so
        that of float16 is used."""
        return self.int8 if kind in ("int8", "float8") else self.float16


DEVICES = (
    # Jetson Orin series data sheets (DS-10712, DS-10662): 32 and 64 tensor cores at 918 and 1300 MHz, 1024 dense int8
    # operations a clock each: 60 and 170 sparse TOPS of the GPU alone
    Device("Orin NX 16GB", "sm86", 102.4e9, 30e12, 15e12),
    Device("AGX Orin 64GB", "sm86", 204.8e9, 85e12, 42.5e12),
    # Jetson T5000 data sheet (DS-11945): 2070 sparse FP4 TFLOPS, a quarter of them dense FP8; int8 as FP8
    Device("Thor T5000", "sm120", 273e9, 517e12, 258e12),
    # NVIDIA Ampere GA102 whitepaper, its rates a tensor core; RTX 3060: 112 of them at 1777 MHz, 360 GB/s
    Device("RTX 3060", "sm86", 360e9, 102e12, 51e12),
    # NVIDIA Ada GPU architecture whitepaper, appendix A
    Device("RTX 4090", "sm89", 1008e9, 660.6e12, 330.3e12),
    # NVIDIA RTX Blackwell GPU architecture whitepaper, appendix: 988 sparse FP4 TOPS, a quarter of them dense int8
    Device("RTX 5070", "sm120", 672e9, 247e12, 123.5e12),
)


def lower_bound(kernels: Kernels, device: Device) -> float | None:
    """Return the bound in seconds; None if the bytes of a kernel are unknown."""
    seconds = 0.0
    for kernel in kernels.each:
        if kernel.bytes is None:
            return None
        rate = device.peak(kernel.multiplies or "float16")
        seconds += max(kernel.bytes / device.bandwidth, 2 * kernel.macs / rate) + LAUNCH
    return seconds
