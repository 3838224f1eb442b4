"""The parts of CUDA that running an engine needs: a device, streams, memory and copies, through `cuda.bindings`.

The first result of every CUDA function is an error code; `call` raises UserError for failures. The device is a setting
of the calling thread, so callers must select it before they use memory or a stream.
"""

import ctypes
import importlib
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

INSTALL = "pip install 'cuda-bindings==12.*', or 13.*: the major version of the device's CUDA (nvidia-smi shows it)"
SEE_DRIVER = "check that `nvidia-smi` lists the GPU, and that its driver supports this version of CUDA"


def cuda_module() -> Any:
    """Import the module `cuda.bindings.runtime`. Raises UserError if it is not installed."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UserError(f"the GPU cannot be used: cuda.bindings cannot be imported ({error})", INSTALL) from error


def call(function: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime, and return its results without the error code.

    Raises UserError with CUDA's message if it fails.
    """
    cuda = cuda_module()
    try:
        code, *results = getattr(cuda, function)(*arguments)
    except RuntimeError as error:  # cuda.bindings finds no CUDA library
        raise UserError(f"CUDA cannot be called: {error}", SEE_DRIVER) from error
    if int(code) != int(cuda.cudaError_t.cudaSuccess):
        _, text = cuda.cudaGetErrorString(code)
        words = text.decode() if isinstance(text, bytes) else str(text)
        fix = "give a smaller --max-batch, or fewer contexts" if "memory" in words else SEE_DRIVER
        raise UserError(f"CUDA: {function}: {words}", fix)
    return results[0] if results else None


def set_device(device: int) -> None:
    """Select the device of this thread."""
    call("cudaSetDevice", device)


def describe(device: int) -> tuple[str, int]:
    """Return the compute capability of a GPU and its number of multiprocessors, such as ("sm89", 128)."""
    count = call("cudaGetDeviceCount")
    if not 0 <= device < count:
        raise UserError(
            f"device {device} does not exist: this machine has {count} GPU(s), numbered from 0", "give device=0"
        )
    attribute = cuda_module().cudaDeviceAttr
    major, minor, multiprocessors = (
        int(call("cudaDeviceGetAttribute", field, device))
        for field in (
            attribute.cudaDevAttrComputeCapabilityMajor,
            attribute.cudaDevAttrComputeCapabilityMinor,
            attribute.cudaDevAttrMultiProcessorCount,
        )
    )
    return f"sm{major}{minor}", multiprocessors


class CudaStream:
    """A CUDA stream. Its work is executed in order, and concurrently with that of other streams."""

    def __init__(self) -> None:
        self.handle = call("cudaStreamCreateWithFlags", cuda_module().cudaStreamNonBlocking)
        weakref.finalize(self, release, "cudaStreamDestroy", self.handle).atexit = False

    def __int__(self) -> int:
        return int(self.handle)

    def wait(self) -> None:
        call("cudaStreamSynchronize", self.handle)


class Memory:
    """Memory for several tensors: `size` bytes on the device, and the same size page-locked on the host for copies.

    One call copies all tensors. Copies are asynchronous: they are complete after the caller has waited for the stream.
    """

    def __init__(self, size: int) -> None:
        size = max(size, 1)
        self.address = int(call("cudaMalloc", size))
        weakref.finalize(self, release, "cudaFree", self.address).atexit = False
        self._host_address = int(call("cudaHostAlloc", size, 0))
        weakref.finalize(self, release, "cudaFreeHost", self._host_address).atexit = False
        self._host: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(self._host_address))

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a tensor in host memory. It must not outlive this object."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        tensor: NDArray[Any] = self._host[offset : offset + size].view(dtype)
        return tensor.reshape(shape)

    def copy_to_device(self, size: int, stream: CudaStream) -> None:
        """Copy the first `size` bytes to the device."""
        kind = cuda_module().cudaMemcpyKind.cudaMemcpyHostToDevice
        call("cudaMemcpyAsync", self.address, self._host_address, size, kind, stream.handle)

    def copy_to_host(self, size: int, stream: CudaStream) -> None:
        """Copy the first `size` bytes to the host."""
        kind = cuda_module().cudaMemcpyKind.cudaMemcpyDeviceToHost
        call("cudaMemcpyAsync", self._host_address, self.address, size, kind, stream.handle)


def release(function: str, handle: Any) -> None:
    """Release a resource. Errors are ignored: the device has already lost it."""
    with suppress(Exception):
        call(function, handle)
