"""A double of `cuda.bindings.runtime` with separate device memory, which does nothing before a stream is waited for.

It fails where CUDA would: memory of another device, copies beyond an allocation, freed buffers, too much memory.
Signatures, return tuples and names are those of cuda-bindings 12.6 to 13.
"""

import ctypes
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from types import ModuleType
from typing import Any

import numpy as np

ALIGNMENT = 256  # bytes: of what cudaMalloc gives
GARBAGE = 0xFF  # as float32 it is NaN: what was freed, or never written, cannot pass for a result


class Error(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInvalidDevice = 101
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900


class Kind(IntEnum):
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2
    cudaMemcpyDeviceToDevice = 3


class Mode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1


class Attribute(IntEnum):
    cudaDevAttrMultiProcessorCount = 16
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


WORDS = {
    Error.cudaErrorInvalidValue: b"invalid argument",
    Error.cudaErrorMemoryAllocation: b"out of memory",
    Error.cudaErrorInvalidDevice: b"invalid device ordinal",
    Error.cudaErrorIllegalAddress: b"an illegal memory access was encountered",
    Error.cudaErrorStreamCaptureUnsupported: b"operation not permitted when stream is capturing",
}


@dataclass
class Allocation:
    content: "np.ndarray[Any, np.dtype[np.uint8]]"
    device: int | None  # None: page-locked host memory
    alive: bool = True

    @property
    def address(self) -> int:
        return self.content.ctypes.data


class Stream:
    """The double of `cudaStream_t`: a handle, which int() converts to a number."""

    def __init__(self) -> None:
        self.pending: list[Callable[[], Error]] = []
        self.recorded: list[Callable[[], Error]] | None = None  # while it is capturing

    def __int__(self) -> int:
        return id(self)


@dataclass
class Device:
    capability: tuple[int, int]
    multiprocessors: int
    memory: int = 2**30


class CudaDouble(ModuleType):
    """Stands in for the module. `calls` counts the called functions."""

    cudaError_t, cudaMemcpyKind, cudaDeviceAttr, cudaStreamCaptureMode = Error, Kind, Attribute, Mode
    cudaStreamNonBlocking = 1

    def __init__(self, capability: tuple[int, int], multiprocessors: int, devices: int = 2) -> None:
        super().__init__("cuda.bindings.runtime")
        self.devices = [Device(capability, multiprocessors) for _ in range(devices)]
        self.allocations: list[Allocation] = []
        self.streams: dict[int, Stream] = {}
        self.graphs: list[Any] = []
        self.launchable: list[Any] = []
        self.calls: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._thread = threading.local()

    @property
    def current(self) -> int:
        """The device of this thread: 0 in each new one, as in CUDA."""
        return getattr(self._thread, "device", 0)

    def find(self, address: int, size: int, device: int | None) -> Allocation | None:
        """Return the living allocation that contains `size` bytes at `address` on a device (None: on the host)."""
        for allocation in self.allocations:
            inside = allocation.address <= address and address + size <= allocation.address + len(allocation.content)
            if allocation.alive and allocation.device == device and inside:
                return allocation
        return None

    def living(self) -> int:
        return sum(allocation.alive for allocation in self.allocations)

    def cudaGetErrorString(self, code: Error) -> tuple[Error, bytes]:
        return Error.cudaSuccess, WORDS[code]

    def cudaGetDeviceCount(self) -> tuple[Error, int]:
        return Error.cudaSuccess, len(self.devices)

    def cudaDeviceGetAttribute(self, attribute: Attribute, device: int) -> tuple[Error, int]:
        each = self.devices[device]
        values = {
            Attribute.cudaDevAttrComputeCapabilityMajor: each.capability[0],
            Attribute.cudaDevAttrComputeCapabilityMinor: each.capability[1],
            Attribute.cudaDevAttrMultiProcessorCount: each.multiprocessors,
        }
        return Error.cudaSuccess, values[attribute]

    def cudaSetDevice(self, device: int) -> tuple[Error]:
        if device >= len(self.devices):
            return (Error.cudaErrorInvalidDevice,)
        self._thread.device = device
        return (Error.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Error, int | None]:
        used = sum(
            len(allocation.content)
            for allocation in self.allocations
            if allocation.alive and allocation.device == self.current
        )
        if used + size > self.devices[self.current].memory:
            return Error.cudaErrorMemoryAllocation, None
        return Error.cudaSuccess, self._allocate("cudaMalloc", size, self.current)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Error, int]:
        return Error.cudaSuccess, self._allocate("cudaHostAlloc", size, None)

    def cudaFree(self, address: int) -> tuple[Error]:
        return self._free(address, device=True)

    def cudaFreeHost(self, address: int) -> tuple[Error]:
        return self._free(address, device=False)

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, Stream]:
        stream = Stream()
        self.streams[int(stream)] = stream
        return Error.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[Error]:
        del self.streams[int(stream)]
        return (Error.cudaSuccess,)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: Kind, stream: Stream) -> tuple[Error]:
        self.calls["cudaMemcpyAsync"] += 1
        here = self.current
        sides = {
            Kind.cudaMemcpyHostToDevice: (here, None),
            Kind.cudaMemcpyDeviceToHost: (None, here),
            Kind.cudaMemcpyDeviceToDevice: (here, here),
        }
        if any(self.find(at, size, side) is None for at, side in zip((to, source), sides[kind], strict=True)):
            return (Error.cudaErrorInvalidValue,)

        def copy() -> Error:
            ctypes.memmove(to, source, size)
            return Error.cudaSuccess

        (stream.pending if stream.recorded is None else stream.recorded).append(copy)
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Error]:
        self.calls["cudaStreamSynchronize"] += 1
        if stream.recorded is not None:
            return (Error.cudaErrorStreamCaptureUnsupported,)
        pending, stream.pending = stream.pending, []
        codes = [work() for work in pending]
        return (max(codes, default=Error.cudaSuccess),)

    def cudaStreamBeginCapture(self, stream: Stream, mode: Mode) -> tuple[Error]:
        stream.recorded = []
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Error, Any]:
        graph, stream.recorded = stream.recorded, None
        self.graphs.append(graph)
        return Error.cudaSuccess, graph

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Error, Any]:
        self.launchable.append(graph)
        return Error.cudaSuccess, tuple(graph)

    def cudaGraphLaunch(self, launchable: Any, stream: Stream) -> tuple[Error]:
        self.calls["cudaGraphLaunch"] += 1
        stream.pending += launchable
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: Any) -> tuple[Error]:
        self.graphs.pop()
        return (Error.cudaSuccess,)

    def cudaGraphExecDestroy(self, launchable: Any) -> tuple[Error]:
        self.launchable.pop()
        return (Error.cudaSuccess,)

    def _allocate(self, function: str, size: int, device: int | None) -> int:
        with self._lock:
            self.calls[function] += 1
            raw = np.full(size + ALIGNMENT, GARBAGE, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            self.allocations.append(Allocation(raw[start : start + size], device))
            return self.allocations[-1].address

    def _free(self, address: int, device: bool) -> tuple[Error]:
        for allocation in self.allocations:
            if allocation.address == address and allocation.alive and (allocation.device is not None) == device:
                allocation.alive = False
                allocation.content[:] = GARBAGE  # kept, so that a late reader finds garbage rather than a crash
                return (Error.cudaSuccess,)
        return (Error.cudaErrorInvalidValue,)
