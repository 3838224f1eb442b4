"""Calls of ONNX Runtime's CUDA provider as CUDA graphs: one launch per step instead of one per kernel."""

import logging
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
from fewstep.runtime.backends.checks import LACKS_MEMORY
from fewstep.runtime.backends.device_lock import DeviceLock, device_lock
from fewstep.runtime.backends.onnxruntime import Session

LOG = logging.getLogger("fewstep")
SHAPES = 4  # how many graphs are recorded, since ONNX Runtime never frees one, and each has its own memory
ALIGNMENT = 256  # bytes, the alignment of CUDA's allocations
GRAPH, NONE = "gpu_graph_id", -1  # a setting of a run: runs with the same number replay one graph, NONE replays none

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ArrayBlock:
    """Arrays in one contiguous block of device memory, so that a single copy transfers all of them.

    places: the offset in bytes, dtype and shape of each array.
    memory: the block, as an OrtValue of bytes.
    """

    places: dict[str, tuple[int, np.dtype[Any], tuple[int, ...]]]
    memory: Any

    def views(self, host: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
        """Return the arrays as views of a copy of the block in host memory."""
        return {
            name: host[first : first + prod(shape) * dtype.itemsize].view(dtype).reshape(shape)
            for name, (first, dtype, shape) in self.places.items()
        }

    def bind(self, bind: Callable[..., None], device: tuple[str, int]) -> None:
        """Pass each array's address to `bind`, a method of an IOBinding."""
        for name, (first, dtype, shape) in self.places.items():
            bind(name, *device, dtype, shape, self.memory.data_ptr() + first)


def allocate_block(onnxruntime: Any, arrays: Arrays, device: tuple[str, int]) -> ArrayBlock:
    """Allocate a block of zeros for arrays of these dtypes and shapes."""
    places, end = {}, 0
    for name, array in arrays.items():
        places[name] = (end, array.dtype, array.shape)
        end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    return ArrayBlock(places, onnxruntime.OrtValue.ortvalue_from_numpy(np.zeros(end, np.uint8), *device))


@dataclass(frozen=True)
class DeviceTensors:
    """Device memory for inputs and outputs of certain shapes, at fixed addresses, which a CUDA graph requires.

    staged: the inputs' block in host memory.
    fed: the input arrays as views of `staged`.
    run: computes the outputs from the inputs.
    """

    inputs: ArrayBlock
    outputs: ArrayBlock
    staged: NDArray[np.uint8]
    fed: Arrays
    run: Callable[[], None]


@dataclass(frozen=True)
class LockedSession:
    """A session that does not record its calls, on a device on which other sessions may be recording."""

    session: Session
    lock: DeviceLock
    takes_optional = False

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        with self.lock.share():
            return self.session(feeds)


@dataclass
class Unrecorded:
    """Shapes whose calls are not recorded, and so run kernel by kernel.

    left: calls until the next attempt to record one.
    after: calls from a failed attempt to the next, doubled each time.
    """

    left: int = 0
    after: int = 1


class CudaGraphSession:
    """A session whose calls are replayed as CUDA graphs, one call at a time, because a graph has fixed memory.

    The first call with some shapes runs kernel by kernel, so that shapes that occur once take no memory. The second
    call is recorded. After SHAPES recordings, no further shapes are recorded. A recording that fails for lack of memory
    is tried again later. If a call cannot be recorded for another reason, it and all later calls use `plain`, a session
    without recording, and a message gives the reason. If `plain` is None, they raise that reason.

    One thread of the session makes all calls, because ONNX Runtime records separately for each thread, and never frees
    the recordings of a thread that has ended.

    device: the type and number of the device, such as ("cuda", 0).
    """

    takes_optional = False

    def __init__(
        self, onnxruntime: Any, session: Session, plain: Callable[[], Session] | None, device: tuple[str, int]
    ) -> None:
        self._onnxruntime, self._plain, self._device = onnxruntime, plain, device
        self._session: Session | None = session
        self._graph = session.graph
        self._bound: dict[Shapes, DeviceTensors | Unrecorded] = {}
        self._room, self._problem = SHAPES, ""
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
                with self._lock.share():
                    return self._replay(state, feeds)
            if state.left == 0:
                return self._record(shapes, feeds)
            state.left -= 1
        except Exception as error:  # onnxruntime's exceptions share no base class except Exception
            reason = first_line(error)
            if isinstance(state, Unrecorded) and LACKS_MEMORY.search(reason):
                LOG.info("%s runs without a CUDA graph for now: %s", self._graph, reason)
                state.left, state.after = state.after, 2 * state.after
            elif self._plain is None and LACKS_MEMORY.search(reason):
                raise
            else:
                self._bound.clear()
                self._room, self._session = 0, None  # freed before another session allocates as much
                self._problem = reason
                if self._plain is None:
                    raise
                LOG.warning("%s runs without a CUDA graph: %s", self._graph, reason)
        return self._run_once(feeds)

    def _run_once(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Make a call without recording."""
        with self._lock.share():
            if self._session is None:
                if self._plain is None:
                    raise RuntimeError(self._problem)
                self._session = self._plain()
            return self._session(feeds, self._options(NONE))

    def _record(self, shapes: Shapes, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Record a call with these shapes, and run it."""
        with self._lock.share():
            bound = self._bind(feeds, 1 + list(self._bound).index(shapes))
        with self._lock.alone():
            values = self._replay(bound, feeds)
        self._bound[shapes] = bound
        return values

    def _replay(self, bound: DeviceTensors, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """Run a call in its memory. ONNX Runtime records the first run, and replays it immediately."""
        for name, array in bound.fed.items():
            np.copyto(array, feeds[name], casting="no")
        bound.inputs.memory.update_inplace(bound.staged)
        bound.run()
        return bound.outputs.views(bound.outputs.memory.numpy())

    def _bind(self, feeds: Arrays, number: int) -> DeviceTensors:
        """Allocate memory for these inputs and for the outputs. An additional call determines the shapes of the
        outputs."""
        inputs, outputs = (
            allocate_block(self._onnxruntime, arrays, self._device) for arrays in (feeds, self._run_once(feeds))
        )
        assert self._session is not None, "the session records"
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
