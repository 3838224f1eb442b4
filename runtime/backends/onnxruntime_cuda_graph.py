"""Calls of ONNX Runtime's CUDA provider as CUDA graphs: one launch for a step instead of one for each kernel."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import first_line
from fewstep.runtime.backends import Arrays
from fewstep.runtime.backends.onnxruntime import Session

LOG = logging.getLogger("fewstep")
SHAPES = 4  # whose graphs are kept: ONNX Runtime drops none, and each has memory of its own
GRAPH, NONE = "gpu_graph_id", -1  # of a run's settings: runs of one number replay one graph, of NONE none

Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class DeviceTensors:
    """Inputs and outputs of one choice of shapes on the device, at addresses that stay, as those of a graph must."""

    inputs: dict[str, Any]
    outputs: dict[str, Any]
    binding: Any
    options: Any


class Replayed:
    """A session whose calls are replayed as CUDA graphs, one call at a time: a graph has one memory.

    The first call of some shapes runs kernel by kernel, so that shapes that come once take no memory. The second is
    recorded. Behind SHAPES of them none is. A call that cannot be recorded opens `plain`, the graph without recording,
    for itself and all calls after it; a message says why. device: its kind and number, as ("cuda", 0).
    """

    takes_optional = False

    def __init__(
        self, onnxruntime: Any, session: Session, plain: Callable[[], Session], device: tuple[str, int]
    ) -> None:
        self._onnxruntime, self._session, self._plain, self._device = onnxruntime, session, plain, device
        self._bound: dict[Shapes, DeviceTensors | None] = {}  # None: called once
        self._room = SHAPES
        self._lock = Lock()

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        shapes = tuple(feeds[name].shape for name in sorted(feeds))
        with self._lock:
            if shapes not in self._bound:
                values = self._once(feeds)
                if len(self._bound) < self._room:
                    self._bound[shapes] = None
                return values
            try:
                return self._replayed(shapes, feeds)
            except Exception as error:  # its exceptions share no base class but Exception
                LOG.warning("%s runs without a CUDA graph: %s", self._session.graph, first_line(error))
                self._bound.clear()
                self._room = 0
                self._session = self._plain()  # the session that records lets its memory go
                return self._once(feeds)

    def _once(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        """A call that nothing records."""
        return self._session(feeds, self._options(NONE))

    def _replayed(self, shapes: Shapes, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        bound = self._bound[shapes]
        if bound is None:
            bound = self._bound[shapes] = self._bind(feeds, 1 + list(self._bound).index(shapes))
        for name, value in bound.inputs.items():
            value.update_inplace(np.ascontiguousarray(feeds[name]))
        self._session.session.run_with_iobinding(bound.binding, bound.options)
        return {name: value.numpy() for name, value in bound.outputs.items()}

    def _bind(self, feeds: Arrays, number: int) -> DeviceTensors:
        """Memory for these inputs, and for the outputs of one more call of them."""
        make, device = self._onnxruntime.OrtValue, self._device
        arrays = {name: np.ascontiguousarray(value) for name, value in feeds.items()}
        inputs = {name: make.ortvalue_from_numpy(value, *device) for name, value in arrays.items()}
        outputs = {
            name: make.ortvalue_from_shape_and_type(value.shape, value.dtype.type, *device)
            for name, value in self._once(feeds).items()
        }
        binding = self._session.session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        for name, value in outputs.items():
            binding.bind_ortvalue_output(name, value)
        return DeviceTensors(inputs, outputs, binding, self._options(number))

    def _options(self, number: int) -> Any:
        options = self._onnxruntime.RunOptions()
        options.add_run_config_entry(GRAPH, str(number))
        return options
