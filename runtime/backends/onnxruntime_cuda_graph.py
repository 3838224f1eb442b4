"""Calls of ONNX Runtime's CUDA provider as CUDA graphs: one launch for a step instead of one for each kernel."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import first_line
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.onnxruntime import Session

LOG = logging.getLogger("fewstep")
SHAPES = 4  # whose graphs are kept: ONNX Runtime drops none, and each has memory of its own
ALIGNMENT = 256  # bytes, as CUDA gives memory
GRAPH, NONE = "gpu_graph_id", -1  # of a run's settings: runs of one number replay one graph, of NONE none

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


class CudaGraphSession:
    """A session whose calls are replayed as CUDA graphs, one call at a time: a graph has one memory.

    The first call of some shapes runs kernel by kernel, so that shapes that come once take no memory. The second is
    recorded. Behind SHAPES of them none is. A call that cannot be recorded opens `plain`, the graph without recording,
    for itself and all calls after it; a message says why. device: its kind and number, as ("cuda", 0).
    """

    takes_optional = False

    def __init__(
        self, onnxruntime: Any, session: Session, plain: Callable[[], Session], device: tuple[str, int]
    ) -> None:
        self._onnxruntime, self._plain, self._device = onnxruntime, plain, device
        self._session: Session | None = session
        self._graph = session.graph
        self._bound: dict[Shapes, DeviceTensors | None] = {}  # None: called once
        self._room = SHAPES
        self._lock = Lock()

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        shapes = tuple(feeds[name].shape for name in sorted(feeds))
        with self._lock:
            if shapes not in self._bound:
                values = self._run_once(feeds)
                if len(self._bound) < self._room:
                    self._bound[shapes] = None
                return values
            try:
                return self._replay(shapes, feeds)
            except Exception as error:  # its exceptions share no base class but Exception
                LOG.warning("%s runs without a CUDA graph: %s", self._graph, first_line(error))
            self._bound.clear()
            self._room, self._session = 0, None  # its memory goes before another session asks for as much
            return self._run_once(feeds)

    def _run_once(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """A call that nothing records."""
        if self._session is None:
            self._session = self._plain()
        return self._session(feeds, self._options(NONE))

    def _replay(self, shapes: Shapes, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        bound = self._bound[shapes]
        if bound is None:
            bound = self._bound[shapes] = self._bind(feeds, 1 + list(self._bound).index(shapes))
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
