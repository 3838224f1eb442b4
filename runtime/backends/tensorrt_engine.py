"""A loaded TensorRT engine: its inputs and outputs, and calls from any number of threads."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays, cuda
from fewstep.runtime.backends.cuda_graph import Recording
from fewstep.runtime.backends.device_lock import device_lock
from fewstep.runtime.backends.resource_pool import ResourcePool
from fewstep.runtime.backends.tensorrt_log import last_error
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.kinds.sizes import infer_sizes, resolve_dimension
from fewstep.runtime.machine import cache

LOG = logging.getLogger("fewstep")
BATCH = "batch"
ALIGNMENT = 256  # bytes: the alignment of cudaMalloc, which kernels rely on


Sizes = Mapping[str, int]  # BATCH and the other free sizes, such as "height"


@dataclass(frozen=True)
class EngineTensor:
    """An input or output of an engine. Its shape is that of the manifest, with names for free axes."""

    name: str
    is_input: bool
    shape: tuple[int | str, ...]
    dtype: np.dtype[Any]

    def fixed_shape(self, sizes: Sizes) -> tuple[int, ...]:
        return tuple(resolve_dimension(size, sizes) for size in self.shape)

    def byte_count(self, sizes: Sizes) -> int:
        return int(np.prod(self.fixed_shape(sizes), dtype=np.int64)) * self.dtype.itemsize


@dataclass(frozen=True)
class Tensors:
    """All inputs and outputs of an engine, and its (smallest, preferred, largest) batch and sizes by name."""

    inputs: tuple[EngineTensor, ...]
    outputs: tuple[EngineTensor, ...]
    profile: Mapping[str, tuple[int, int, int]]

    @property
    def preferred_sizes(self) -> Sizes:
        return {name: preferred for name, (_, preferred, _) in self.profile.items()}

    @property
    def greatest_sizes(self) -> Sizes:
        return {name: greatest for name, (_, _, greatest) in self.profile.items()}


def read_tensors(trt: Any, engine: Any, graph: GraphEntry, what: str, build: str) -> Tensors:
    """Return the inputs and outputs of an engine. Raises UserError if they differ from those in the manifest."""
    named = {port.name: port for port in (*graph.inputs, *graph.outputs)}
    tensors = []
    ranges: dict[str, list[tuple[int, int, int]]] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        sizes = tuple(engine.get_tensor_shape(name))
        manifest = named.pop(name, None)
        if manifest is None or (manifest in graph.inputs) != is_input or dtype != manifest.dtype:
            what = f"{what} has a tensor {name!r} ({dtype}) that its graph does not have"
            raise UserError(what, f"build it again: {build}")
        shape = manifest.shape
        if len(sizes) != len(shape) or any(isinstance(b, int) and a != b for a, b in zip(sizes, shape, strict=True)):
            what = f"{what}: {name!r} is {list(sizes)}, but its graph has {list(shape)}"
            raise UserError(what, f"build it again: {build}")
        tensors.append(EngineTensor(name, is_input, shape, dtype))
        if is_input and any(isinstance(size, str) for size in shape):
            ends = [infer_sizes(shape, tuple(each)) for each in engine.get_tensor_profile_shape(name, 0)]
            for size in ends[0]:
                ranges.setdefault(size, []).append((ends[0][size], ends[1][size], ends[2][size]))
    if any(port in graph.outputs for port in named.values()):
        raise UserError(f"{what} does not return {', '.join(named)}", f"build it again: {build}")
    profile = {BATCH: (1, 1, 1)}
    for size, each in ranges.items():
        least, preferred, greatest = zip(*each, strict=True)
        profile[size] = (max(least), min(preferred), min(greatest))
    return Tensors(
        tuple(tensor for tensor in tensors if tensor.is_input),
        tuple(tensor for tensor in tensors if not tensor.is_input),
        profile,
    )


class LaneBuffers:
    """The inputs, or the outputs, of one execution context, contiguous in memory so that one call copies all of
    them."""

    def __init__(self, tensors: tuple[EngineTensor, ...], greatest: Sizes) -> None:
        self.tensors = tensors
        self.memory = cuda.Memory(self._layout(greatest)[1])
        self.size = 0
        self.views: dict[str, NDArray[Any]] = {}  # on the host

    def place(self, sizes: Sizes) -> dict[str, int]:
        """Arrange the tensors for a batch and sizes. Returns the address of each on the device."""
        offsets, self.size = self._layout(sizes)
        self.views = {
            tensor.name: self.memory.view(offsets[tensor.name], tensor.fixed_shape(sizes), tensor.dtype)
            for tensor in self.tensors
        }
        return {name: self.memory.address + offset for name, offset in offsets.items()}

    def _layout(self, sizes: Sizes) -> tuple[dict[str, int], int]:
        """Return the offset of each tensor in the buffer, and the size of the buffer, both in bytes."""
        offsets, end = {}, 0
        for tensor in self.tensors:
            offsets[tensor.name] = end
            end += -(-tensor.byte_count(sizes) // ALIGNMENT) * ALIGNMENT
        return offsets, end


class ExecutionLane:
    """An execution context with a stream, and memory for its greatest sizes. It serves one call at a time."""

    def __init__(self, trt: Any, contexts: "Contexts", tensors: Tensors, device: int, what: str) -> None:
        self.trt, self.tensors, self.device, self.what = trt, tensors, device, what
        self.stream = cuda.CudaStream()
        self.context = contexts.make()
        if self.context is None:
            raise UserError(f"{what} cannot start: {last_error(trt)}", "free GPU memory, or give contexts=1")
        self.inputs = LaneBuffers(tensors.inputs, tensors.greatest_sizes)
        self.outputs = LaneBuffers(tensors.outputs, tensors.greatest_sizes)
        self.sizes: Sizes | None = None  # the sizes that the memory is arranged for
        self.records = contexts.records
        self.recording: Recording | None = None  # recording of a call with these sizes
        self.calls = 0  # number of calls with these sizes
        self.records_at = 2  # the number of the call that is recorded next

    def run(self, feeds: Arrays, sizes: Sizes) -> dict[str, NDArray[Any]]:
        """Run one call. The caller has checked sizes, dtypes and shapes."""
        with device_lock("cuda", self.device).share():
            return self._run(feeds, sizes)

    def _run(self, feeds: Arrays, sizes: Sizes) -> dict[str, NDArray[Any]]:
        cuda.set_device(self.device)
        if sizes != self.sizes:
            self._lay_out(sizes)
        for name, view in self.inputs.views.items():
            np.copyto(view, feeds[name], casting="no")
        if self.recording is not None:
            self.recording.launch()
        else:
            self._check_call(self._enqueue(), "failed")
        self.stream.wait()
        self._record()
        return {name: view.copy() for name, view in self.outputs.views.items()}

    def _lay_out(self, sizes: Sizes) -> None:
        """Set the context's sizes and the addresses of its tensors. This discards the recording."""
        self.sizes, self.recording, self.calls, self.records_at = None, None, 0, 2
        for name, address in (self.inputs.place(sizes) | self.outputs.place(sizes)).items():
            self._check_call(self.context.set_tensor_address(name, address), f"has no address for {name!r}")
        for tensor in self.tensors.inputs:
            self._check_call(
                self.context.set_input_shape(tensor.name, tensor.fixed_shape(sizes)), f"refuses {tensor.name!r}"
            )
        for tensor in self.tensors.outputs:
            self._check_call(
                tuple(self.context.get_tensor_shape(tensor.name)) == tensor.fixed_shape(sizes),
                f"resizes {tensor.name!r}",
            )
        self.sizes = sizes

    def _enqueue(self) -> bool:
        """Enqueue a call on the stream: copy the inputs to the device, run the engine, copy the outputs back. Return
        whether TensorRT accepted it."""
        self.inputs.memory.copy_to_device(self.inputs.size, self.stream)
        done = bool(self.context.execute_async_v3(int(self.stream)))
        self.outputs.memory.copy_to_host(self.outputs.size, self.stream)
        return done

    def _record(self) -> None:
        """Record the second call with the same sizes. The first one has set up everything that its shapes need.

        A recording that fails for lack of memory is tried again later, after twice as many calls each time.
        """
        self.calls += 1
        if self.records and self.recording is None and self.calls >= self.records_at:
            try:
                self.recording = Recording(self.stream, self._enqueue)
            except UserError as error:
                self.records_at = 2 * self.calls
                if "memory" in error.what:
                    return
                self.records = False
                LOG.warning("%s runs without a CUDA graph: %s, %s", self.what, error.what, last_error(self.trt))

    def warm_up(self) -> None:
        """Make the first call now, not in the first sample: it compiles and loads kernels, which may take seconds."""
        sizes = self.tensors.preferred_sizes
        for _ in range(2 if self.records else 1):
            self.run(
                {tensor.name: np.zeros(tensor.fixed_shape(sizes), tensor.dtype) for tensor in self.tensors.inputs},
                sizes,
            )

    def _check_call(self, done: bool, failure: str) -> None:
        if not done:
            fix = "build the engine again, or compare with float32"
            raise UserError(f"{self.what} {failure}: {last_error(self.trt)}", fix)


@dataclass(frozen=True)
class LoadedEngine:
    """A loaded engine. Its fields are destroyed in their order: contexts (in lanes), engine, runtime."""

    lanes: ResourcePool[ExecutionLane]
    engine: Any
    runtime: Any
    tensors: Tensors
    what: str
    build: str

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        sizes: dict[str, int] = {}
        for tensor in self.tensors.inputs:
            value = feeds.get(tensor.name)
            if value is None or value.dtype != tensor.dtype:
                kind = "nothing" if value is None else str(value.dtype)
                what = f"{self.what} takes {tensor.name!r} as {tensor.dtype}, not {kind}"
                raise UserError(what, f"give {tensor.name!r} as {tensor.dtype}")
            sizes = infer_sizes(tensor.shape, value.shape) | sizes  # the first input determines the sizes
        sizes = dict.fromkeys(self.tensors.profile, 1) | sizes
        for name, size in sizes.items():
            self._check(name, size, sizes)
        for tensor in self.tensors.inputs:
            if feeds[tensor.name].shape != tensor.fixed_shape(sizes):
                raise UserError(
                    f"{self.what}: {tensor.name!r} is {list(feeds[tensor.name].shape)}, "
                    f"not {list(tensor.fixed_shape(sizes))}",
                    "check the shapes of the inputs",
                )
        with self.lanes.take() as lane:
            return lane.run(feeds, sizes)

    def _check(self, name: str, size: int, sizes: Sizes) -> None:
        """Raise UserError for a batch or size outside the profile that the engine was built for."""
        least, preferred, greatest = self.tensors.profile[name]
        if least <= size <= greatest:
            return
        if name == BATCH:
            raise UserError(
                f"{self.what} takes {least} to {greatest} rows, best {preferred}, not {size} (a guided sample has two)",
                f"give fewer samples per call, or {self.build} --max-batch {max(size, greatest)}",
            )
        option, end = ("--max-batch", self.tensors.greatest_sizes) if size > greatest else ("--min-batch", {BATCH: 1})
        sized = next(
            tensor for tensor in self.tensors.inputs if name in infer_sizes(tensor.shape, tensor.fixed_shape(sizes))
        )
        shape = "x".join(map(str, sized.fixed_shape({**sizes, BATCH: end[BATCH]})))
        raise UserError(
            f"{self.what} takes a {name} of {least} to {greatest}, best {preferred}, not {size}",
            f"choose sizes in that range, or {self.build} {option} {sized.name}:{shape}",
        )


@dataclass(frozen=True)
class Contexts:
    """Creates execution contexts of an engine. TensorRT-RTX compiles code for each, which is cached.

    records: whether calls are recorded as CUDA graphs here; TensorRT-RTX records them itself.
    """

    engine: Any
    settings: tuple[Any, ...] = ()
    records: bool = False
    compiled: Any = None  # TensorRT-RTX's cache of code that it compiles at run time
    name: str = ""
    stored: bytes | None = None

    def make(self) -> Any:
        return self.engine.create_execution_context(*self.settings)

    def store(self) -> None:
        if self.compiled is not None:
            content = bytes(self.compiled.serialize())
            if content != self.stored:
                cache.store("jit", self.name, content)


def prepare_contexts(trt: Any, engine: Any, name: str, cuda_graph: bool) -> Contexts:
    """Return the contexts of an engine. TensorRT-RTX reuses compiled code from the file `name` of the cache."""
    if not hasattr(trt, "IRuntimeCache"):
        return Contexts(engine, records=cuda_graph)
    config = engine.create_runtime_config()
    compiled = config.create_runtime_cache()
    stored = cache.read("jit", name)
    if stored is not None and not compiled.deserialize(stored):  # compiled for another driver or GPU
        LOG.info("%s no longer fits, compiling again", name)
        stored = None
    config.set_runtime_cache(compiled)
    if cuda_graph:
        config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
    return Contexts(engine, (config,), compiled=compiled, name=name, stored=stored)
