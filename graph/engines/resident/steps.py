"""The steps of a run in TensorRT: the whole loop as one CUDA graph, if the engine can be recorded.

Even steps read the first state and write the second, odd steps the other way round; the number of each step lies on the
device. So the addresses of a step are known before the loop begins, and one recording holds all steps with the copies
before and after them. An engine of TensorRT-RTX that cannot be recorded records each step by itself, with addresses
that stay: the state and the number are then copied on the device between two steps.
"""

import logging
from collections.abc import Sequence
from hashlib import sha256

import numpy as np

from fewstep.graph.bake.cut import Steps
from fewstep.graph.describe import describe
from fewstep.graph.engines.built import built
from fewstep.graph.graph import Array, Graph
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays, cuda
from fewstep.runtime.backends.cuda_graph import Recording
from fewstep.runtime.backends.tensorrt import TensorRt
from fewstep.runtime.backends.tensorrt_engine import ALIGNMENT, EngineTensor, Side, prepare_contexts, read_tensors
from fewstep.runtime.backends.tensorrt_log import logger, reason

LOG = logging.getLogger("fewstep")
NUMBERS = "the numbers of all steps"  # a tensor that the engine does not have
NUMBER = np.dtype(np.int64)
BUILD = "run it on another backend: it was built here a moment ago"


class ResidentSteps:
    """Steps of fixed shapes: an engine that is built here and kept in the user's cache folder, its memory and its
    recording. Called with a state and the inputs of all steps, it returns the next state. One call at a time."""

    def __init__(self, backend: TensorRt, steps: Steps, graph: Graph) -> None:
        trt, here, program = backend.module(), backend.here(), built(backend, graph)
        cuda.use(backend.device)
        self._trt, self._steps, self._device = trt, steps, backend.device
        self._what = f"the {backend.name} engine of {graph.name!r} for {here.device}"
        self._runtime = trt.Runtime(logger(trt))
        engine = self._runtime.deserialize_cuda_engine(program)
        if engine is None:  # the kept program: another driver made it, or the file is damaged
            program = built(backend, graph, rebuild=True)
            engine = self._runtime.deserialize_cuda_engine(program)
        if engine is None:
            raise UserError(f"{backend.name} {trt.__version__} cannot load {graph.name!r}: {reason(trt)}", BUILD)
        tensors = read_tensors(trt, engine, describe(graph, f"{graph.name}.onnx"), self._what, BUILD)
        named = {each.name: each for each in (*tensors.inputs, *tensors.outputs)}
        numbers = EngineTensor(NUMBERS, True, (steps.count, ALIGNMENT // NUMBER.itemsize), NUMBER)
        number = EngineTensor(steps.number, True, (), NUMBER)
        sent = [named[name] for name in steps.fixed] + [numbers, number] + [named[name] for name in steps.state]
        self._first, self._second = Side(tuple(sent), {}), Side(tuple(named[name] for name in steps.nexts), {})
        self._at = self._first.place({}) | self._second.place({})
        self._first.views[NUMBERS][:, 0] = np.arange(steps.count)
        self._stream = cuda.CudaStream()
        compiled = f"{sha256(program).hexdigest()[:32]}-{here.backend_version}-{here.device}.jit"
        contexts = prepare_contexts(trt, engine, compiled, cuda_graph=False)
        self._context = contexts.make()
        asks = getattr(self._context, "is_stream_capturable", None)  # TensorRT-RTX's
        is_asked = backend.cuda_graph is not False  # a loop has many kernels
        self._records = is_asked and (asks is None or asks(int(self._stream)))
        self._stays = is_asked and not self._records
        if self._stays:
            contexts = prepare_contexts(trt, engine, compiled, cuda_graph=True)
            self._context = contexts.make()
        self._contexts, self._calls = contexts, 0
        self._recording: Recording | None = None

    @property
    def graphs(self) -> str:
        """The use of CUDA graphs for the steps, in words."""
        if self._stays:
            return "each step by the engine itself"
        return "the whole loop" if self._recording is not None else "none"

    def __call__(self, state: Sequence[Array], fixed: Arrays) -> list[Array]:
        cuda.use(self._device)
        for name, value in {**fixed, **dict(zip(self._steps.state, state, strict=True))}.items():
            np.copyto(self._first.views[name], value, casting="no")
        if self._recording is not None:
            self._recording.launch()
        elif not self._enqueue():
            raise UserError(f"{self._what} failed: {reason(self._trt)}", "build it again, or compare with float32")
        self._stream.wait()
        self._calls += 1
        if self._calls == 1:
            self._contexts.store()
        self._record()
        last, names = self._last()
        return [last.views[name].copy() for name in names]

    def _enqueue(self) -> bool:
        """Enqueue the whole run on the stream: its inputs, all steps, and the copy of the last state."""
        self._first.memory.send(self._first.size, self._stream)
        steps = all(self._stay(i) if self._stays else self._turn(i) for i in range(self._steps.count))
        last, names = self._last()
        start = self._at[names[0]] - last.memory.address
        last.memory.ask(last.size - start, self._stream, start)
        return steps

    def _turn(self, number: int) -> bool:
        """Enqueue a step from one state to the other."""
        even = (self._steps.state, self._steps.nexts)
        read, written = even if number % 2 == 0 else even[::-1]
        addresses = {name: self._at[name] for name in self._steps.fixed}
        addresses[self._steps.number] = self._at[NUMBERS] + number * ALIGNMENT
        addresses |= {name: self._at[place] for name, place in zip(self._steps.state, read, strict=True)}
        addresses |= {name: self._at[place] for name, place in zip(self._steps.nexts, written, strict=True)}
        return self._execute(addresses)

    def _stay(self, number: int) -> bool:
        """Enqueue a step at addresses that all steps share."""
        self._copy(self._at[NUMBERS] + number * ALIGNMENT, self._at[self._steps.number], NUMBER.itemsize)
        done = self._execute({name: at for name, at in self._at.items() if name != NUMBERS})
        for written, name in zip(self._steps.nexts, self._steps.state, strict=True):
            self._copy(self._at[written], self._at[name], self._second.views[written].nbytes)
        return done

    def _execute(self, addresses: dict[str, int]) -> bool:
        placed = all(self._context.set_tensor_address(name, address) for name, address in addresses.items())
        return placed and bool(self._context.execute_async_v3(int(self._stream)))

    def _copy(self, source: int, to: int, size: int) -> None:
        """Copy within the device."""
        kind = cuda.api().cudaMemcpyKind.cudaMemcpyDeviceToDevice
        cuda.call("cudaMemcpyAsync", to, source, size, kind, self._stream.handle)

    def _last(self) -> tuple[Side, tuple[str, ...]]:
        """The memory of the last state, and the names of its rows."""
        is_first = self._stays or self._steps.count % 2 == 0
        return (self._first, self._steps.state) if is_first else (self._second, self._steps.nexts)

    def _record(self) -> None:
        """Record the run after its first call, whose set-up cannot be recorded."""
        if self._records and self._recording is None:
            try:
                self._recording = Recording(self._stream, self._enqueue)
            except UserError as error:
                self._records = False
                LOG.warning("%s runs without a CUDA graph: %s, %s", self._what, error.what, reason(self._trt))
