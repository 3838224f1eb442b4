"""The little of CUDA that running an engine takes: a device, streams, memory, copies. Through `cuda.bindings`.

Every call returns an error code first; `call` makes a UserError of those that failed. The device is a setting of the
calling thread, so whoever uses memory or a stream selects it first.
"""

import ctypes
import importlib
import weakref
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError

INSTALL = "pip install 'cuda-bindings==12.*', or 13.*: the major version of the device's CUDA (nvidia-smi says it)"
SEE_DRIVER = "check that `nvidia-smi` lists the GPU, and that its driver is as new as CUDA"


def cuda_module() -> Any:
    """The module `cuda.bindings.runtime`. UserError if it isn't installed."""
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise UserError(f"the GPU cannot be used: cuda.bindings cannot be imported ({error})", INSTALL) from error


def call(function: str, *arguments: Any) -> Any:
    """Call a function of the CUDA runtime. Returns its results without the error code. UserError in CUDA's words."""
    cuda = cuda_module()
    try:
        code, *results = getattr(cuda, function)(*arguments)
    except RuntimeError as error:  # cuda.bindings found no library to call
        raise UserError(f"CUDA cannot be called: {error}", SEE_DRIVER) from error
    if int(code) != int(cuda.cudaError_t.cudaSuccess):
        _, text = cuda.cudaGetErrorString(code)
        words = text.decode() if isinstance(text, bytes) else str(text)
        fix = "give a smaller --max-batch, or fewer contexts" if "memory" in words else SEE_DRIVER
        raise UserError(f"CUDA: {function}: {words}", fix)
    return results[0] if results else None


def set_device(device: int) -> None:
    """Make a device the one of this thread."""
    call("cudaSetDevice", device)


def describe(device: int) -> tuple[str, int]:
    """("sm89", 128): the compute capability of a GPU and its number of multiprocessors."""
    count = call("cudaGetDeviceCount")
    if not 0 <= device < count:
        raise UserError(f"there is no GPU number {device}, only {count}", "give device=0")
    attribute = cuda_module().cudaDeviceAttr
    major, minor, multiprocessors = (
        int(call("cudaDeviceGetAttribute", each, device))
        for each in (
            attribute.cudaDevAttrComputeCapabilityMajor,
            attribute.cudaDevAttrComputeCapabilityMinor,
            attribute.cudaDevAttrMultiProcessorCount,
        )
    )
    return f"sm{major}{minor}", multiprocessors


class CudaStream:
    """A stream of its own: its work runs in order, at the same time as other streams'."""

    def __init__(self) -> None:
        self.handle = call("cudaStreamCreateWithFlags", cuda_module().cudaStreamNonBlocking)
        weakref.finalize(self, release, "cudaStreamDestroy", self.handle).atexit = False

    def __int__(self) -> int:
        return int(self.handle)

    def wait(self) -> None:
        call("cudaStreamSynchronize", self.handle)


class Memory:
    """Memory for several tensors together: `size` bytes on the device, and as many page-locked on the host for copies.

    A copy is one call however many tensors it carries. It is asynchronous: what was sent or asked for is there once
    the stream was waited for.
    """

    def __init__(self, size: int) -> None:
        size = max(size, 1)
        self.address = int(call("cudaMalloc", size))
        weakref.finalize(self, release, "cudaFree", self.address).atexit = False
        self._host_address = int(call("cudaHostAlloc", size, 0))
        weakref.finalize(self, release, "cudaFreeHost", self._host_address).atexit = False
        self._host: NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_ubyte * size).from_address(self._host_address))

    def view(self, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """The host's side of a tensor. It must not outlive this memory."""
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
    """Give a resource back. An error means that the device lost it already."""
    with suppress(Exception):
        call(function, handle)
