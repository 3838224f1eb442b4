"""Calls of ONNX Runtime's CUDA provider as CUDA graphs: one launch for a step instead of one for each kernel."""

import logging
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import first_line
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.device_lock import DeviceLock, device_lock
from fewstep.runtime.backends.onnxruntime import Session

LOG = logging.getLogger("fewstep")
SHAPES = 4  # whose graphs are kept: ONNX Runtime drops none, and each has memory of its own
ALIGNMENT = 256  # bytes, as CUDA gives memory
GRAPH, NONE = "gpu_graph_id", -1  # of a run's settings: runs of one number replay one graph, of NONE none
LACKS_MEMORY = re.compile(r"out of memory|failed to allocate|ALLOC_FAILED", re.IGNORECASE)  # in an error's words

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ArrayBlock:
    """Arrays one behind another in one piece of memory of the device, so that one copy moves them all.

    places: the first byte, the type and the shape of each. memory: an OrtValue of bytes.
    """

    places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]]
    memory: Any

    def views(self, host: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """The arrays in bytes of the host, which they share."""
        return {
            name: host[first : first + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (first, dtype, shape) in self.places.items()
        }

    def bind(self, bind: Callable[..., None], device: tuple[str, int]) -> None:
        """Give each array's address to a method of an IOBinding."""
        for name, (first, dtype, shape) in self.places.items():
            bind(name, *device, dtype, shape, self.memory.data_ptr() + first)


def allocate_block(onnxruntime: Any, arrays: Arrays, device: tuple[str, int]) -> ArrayBlock:
    """Memory for arrays of these types and shapes. It holds zeros."""
    places, end = {}, 0
    for name, array in arrays.items():
        places[name] = (end, array.dtype, array.shape)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return ArrayBlock(places, onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(end, np.uint8), *device))


@dataclass(frozen=True)
class DeviceTensors:
    """Inputs and outputs of one choice of shapes on the device, at addresses that stay, as those of a graph must.

    staged, fed: bytes of the host as inputs lie there, and the arrays in them. run: computes outputs of inputs.
    """

    inputs: ArrayBlock
    outputs: ArrayBlock
    staged: NDArray[np.uint8]
    fed: Arrays
    run: Callable[[], None]


@dataclass(frozen=True)
class LockedSession:
    """A session that records nothing, on a device where others may record."""

    session: Session
    lock: DeviceLock
    takes_optional = False

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        with self.lock.shared():
            return self.session(feeds)


@dataclass
class Unrecorded:
    """Shapes whose calls run kernel by kernel.

    left: calls until the next try to record one. after: calls from a failed try to the next, doubled each time.
    """

    left: int = 0
    after: int = 1


class CudaGraphSession:
    """A session whose calls are replayed as CUDA graphs, one call at a time: a graph has one memory.

    The first call of some shapes runs kernel by kernel, so that shapes that come once take no memory. The second is
    recorded, and no call after SHAPES of them. A recording that lacks memory is tried again later. A call that cannot
    be recorded for another reason opens `plain`, the graph without recording, for itself and all calls after it; a
    message says why.

    All calls are made by one thread of the session, whatever thread calls it: ONNX Runtime keeps the recordings of
    each thread apart, and keeps those of a thread that has ended. device: its kind and number, as ("cuda", 0).
    """

    takes_optional = False

    def __init__(
        self, onnxruntime: Any, session: Session, plain: Callable[[], Session], device: tuple[str, int]
    ) -> None:
        self._onnxruntime, self._plain, self._device = onnxruntime, plain, device
        self._session: Session | None = session
        self._graph = session.graph
        self._bound: dict[Shapes, DeviceTensors | Unrecorded] = {}
        self._room = SHAPES
        self._lock = device_lock(*device)
        self._thread = ThreadPoolExecutor(1, "cuda graphs")

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        return self._thread.submit(self._call, feeds).result()

    def _call(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        shapes = tuple(feeds[name].shape for name in sorted(feeds))
        state = self._bound.get(shapes)
        if state is None:
            values = self._run_once(feeds)
            if len(self._bound) < self._room:
                self._bound[shapes] = Unrecorded()
            return values
        try:
            if isinstance(state, DeviceTensors):
                with self._lock.shared():
                    return self._replay(state, feeds)
            if state.left == 0:
                return self._record(shapes, feeds)
            state.left -= 1
        except Exception as error:  # its exceptions share no base class but Exception
            reason = first_line(error)
            if isinstance(state, Unrecorded) and LACKS_MEMORY.search(reason):
                LOG.info("%s runs without a CUDA graph for now: %s", self._graph, reason)
                state.left, state.after = state.after, 2 * state.after
            else:
                LOG.warning("%s runs without a CUDA graph: %s", self._graph, reason)
                self._bound.clear()
                self._room, self._session = 0, None  # its memory goes before another session asks for as much
        return self._run_once(feeds)

    def _run_once(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """A call that nothing records."""
        with self._lock.shared():
            if self._session is None:
                self._session = self._plain()
            return self._session(feeds, self._options(NONE))

    def _record(self, shapes: Shapes, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Record a call of these shapes, and run it."""
        with self._lock.shared():
            bound = self._bind(feeds, 1 + list(self._bound).index(shapes))
        with self._lock.alone():
            values = self._replay(bound, feeds)
        self._bound[shapes] = bound
        return values

    def _replay(self, bound: DeviceTensors, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """The first run of bound memory is recorded, and replayed at once."""
        for name, array in bound.fed.items():
            np.copyto(array, feeds[name], casting="no")
        bound.inputs.memory.update_inplace(bound.staged)
        bound.run()
        return bound.outputs.views(bound.outputs.memory.numpy())

    def _bind(self, feeds: Arrays, number: int) -> DeviceTensors:
        """Memory for these inputs, and for the outputs of one more call of them."""
        inputs, outputs = (
            allocate_block(self._onnxruntime, arrays, self._device) for arrays in (feeds, self._run_once(feeds))
        )
        assert self._session is not None, "it records"
        binding = self._session.session.io_binding()
        inputs.bind(binding.bind_input, self._device)
        outputs.bind(binding.bind_output, self._device)
        staged = inputs.memory.numpy()
        run = partial(self._session.session.run_with_iobinding, binding, self._options(number))
        return DeviceTensors(inputs, outputs, staged, inputs.views(staged), run)

    def _options(self, number: int) -> Any:
        options = self._onnxruntime.RunOptions()
        options.add_run_config_entry(GRAPH, str(number))
        return options
