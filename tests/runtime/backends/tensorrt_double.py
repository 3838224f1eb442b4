"""A double of TensorRT's Python module, on the double of CUDA. Its "engines" are ONNX graphs that onnxruntime runs.

It refuses what TensorRT refuses: another version's engine, a shape outside the profile, a tensor without an address,
with one that is not memory of this device, or with too little memory, a context that is used twice at once. As in
TensorRT a refusal is None or False, and the logger gets the reason.
"""

import base64
import json
from collections import Counter
from enum import Enum
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime as ort

from fewstep.runtime.kinds.sizes import infer_sizes, resolve_dimension
from tests.runtime.backends.cuda_double import ALIGNMENT, CudaDouble, Error

TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(int64)": np.int64}


def engine(graph: bytes, version: str, batches: tuple[int, int, int], **extra: Any) -> bytes:
    """The double's engine file."""
    content = {"graph": base64.b64encode(graph).decode(), "version": version, "batches": batches, **extra}
    return json.dumps(content).encode()


def tensorrt_double(name: str, version: str, cuda: CudaDouble) -> Any:
    """Stands in for the module. `calls` counts calls of contexts; `host_code` lists whether runtimes allowed host
    code.
    """
    module: Any = ModuleType(name)
    module.__version__ = version
    module.calls = Counter()
    module.host_code = []
    module.records = True

    class Severity(Enum):
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    class ILogger:
        def __init__(self) -> None:
            self.ready = True  # TensorRT demands that the base's __init__ ran

    ILogger.Severity = Severity  # type: ignore[attr-defined]

    class TensorIOMode(Enum):
        NONE, INPUT, OUTPUT = range(3)

    class Runtime:
        def __init__(self, logger: Any) -> None:
            assert logger.ready
            self.logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, content: bytes) -> "Engine | None":
            module.host_code.append(self.engine_host_code_allowed)
            self.logger.log(Severity.WARNING, "loading")
            try:
                read = json.loads(content)
            except ValueError:
                self.logger.log(Severity.ERROR, "Serialization assertion magicTagRead == kMAGIC_TAG failed.\nmore")
                return None
            if read["version"] != version and not self.engine_host_code_allowed:
                self.logger.log(Severity.ERROR, "Version tag does not match.")
                return None
            return Engine(self, read)

    class Engine:
        def __init__(self, runtime: Runtime, read: dict[str, Any]) -> None:
            self.runtime = runtime
            self.ends: list[dict[str, int]] = [
                {"batch": batch, **{name: sizes[end] for name, sizes in read.get("sizes", {}).items()}}
                for end, batch in enumerate(read["batches"])
            ]
            options = ort.SessionOptions()
            options.log_severity_level = 4
            self.session = ort.InferenceSession(
                base64.b64decode(read["graph"]), options, providers=["CPUExecutionProvider"]
            )
            inputs, outputs = self.session.get_inputs(), self.session.get_outputs()
            self.named = {each.name: tuple(each.shape) for each in (*inputs, *outputs)}
            self.tensors = {
                each.name: (mode, tuple(-1 if isinstance(size, str) else size for size in each.shape), TYPES[each.type])
                for mode, values in ((TensorIOMode.INPUT, inputs), (TensorIOMode.OUTPUT, outputs))
                for each in values
            }
            self.num_io_tensors, self.num_layers = len(self.tensors), read.get("layers", 1)

        def get_tensor_name(self, index: int) -> str:
            return list(self.tensors)[index]

        def get_tensor_mode(self, name: str) -> TensorIOMode:
            return self.tensors[name][0]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self.tensors[name][1]

        def get_tensor_dtype(self, name: str) -> Any:
            return self.tensors[name][2]

        def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
            assert profile == 0 and self.tensors[name][0] is TensorIOMode.INPUT
            return [_small_config(self.named[name], end) for end in self.ends]

        def create_runtime_config(self) -> "RuntimeConfig":
            return RuntimeConfig()

        def create_execution_context(self, config: Any = None) -> "Context | None":
            module.calls["create_execution_context"] += 1
            if config is not None:
                module.calls[config.cuda_graph_strategy.name] += 1
            return Context(self, config)

    class Context:
        def __init__(self, engine: Engine, config: Any) -> None:
            self.engine = engine
            self.config = config
            self.shapes: dict[str, tuple[int, ...]] = {}
            self.addresses: dict[str, int] = {}
            self.running: list[int] = []  # streams, one for each call that has not ended

        def refuse(self, reason: str) -> bool:
            self.engine.runtime.logger.log(Severity.ERROR, reason)
            return False

        def set_tensor_address(self, name: str, address: int) -> bool:
            module.calls["set_tensor_address"] += 1
            if name not in self.engine.tensors:
                return self.refuse(f"no tensor {name}")
            if address % ALIGNMENT:
                return self.refuse(f"the address of {name} is not aligned to {ALIGNMENT} bytes")
            self.addresses[name] = address
            return True

        def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
            module.calls["set_input_shape"] += 1
            _, sizes, _ = self.engine.tensors[name]
            least, _, greatest = (_small_config(self.engine.named[name], end) for end in self.engine.ends)
            if len(shape) != len(sizes) or not all(a <= b <= c for a, b, c in zip(least, shape, greatest, strict=True)):
                return self.refuse(f"Static or dynamic dimension of {name} out of profile: {shape}")
            self.shapes[name] = tuple(shape)
            return True

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            mode, sizes, _ = self.engine.tensors[name]
            if mode is TensorIOMode.INPUT:
                return self.shapes.get(name, sizes)
            stated = [infer_sizes(self.engine.named[each], shape) for each, shape in self.shapes.items()]
            agreed = {size: {each[size] for each in stated if size in each} for each in stated for size in each}
            if any(len(values) > 1 for values in agreed.values()) or not agreed:
                return sizes
            return _small_config(self.engine.named[name], {size: values.pop() for size, values in agreed.items()})

        def execute_async_v3(self, stream: int) -> bool:
            module.calls["execute_async_v3"] += 1
            if stream not in cuda.streams:
                return self.refuse("no such stream")
            if any(each != stream for each in self.running):  # on one stream they may queue
                return self.refuse("the context is in use")
            recorded = cuda.streams[stream].recorded
            if recorded is not None and not module.records:
                return self.refuse("operation not permitted when stream is capturing")
            for name, (mode, _, kind) in self.engine.tensors.items():
                shape = self.get_tensor_shape(name)
                if mode is TensorIOMode.INPUT and name not in self.shapes and -1 in shape:
                    return self.refuse(f"no shape was set for {name}")
                if name not in self.addresses:
                    return self.refuse(f"no address was set for {name}")
                size = int(np.prod(shape)) * np.dtype(kind).itemsize
                if cuda.find(self.addresses[name], size, cuda.current) is None:
                    return self.refuse(f"the address of {name} is no device memory of {size} bytes")
            shapes, addresses = dict(self.shapes), dict(self.addresses)  # those of now, whatever is set later
            if recorded is not None:
                recorded.append(
                    lambda: self.compute(addresses) if shapes == self.shapes else Error.cudaErrorIllegalAddress
                )
                return True
            self.running.append(stream)

            def work() -> Error:
                self.running.remove(stream)
                return self.compute(addresses)

            cuda.streams[stream].pending.append(work)
            return True

        if name == "tensorrt_rtx":

            def is_stream_capturable(self, stream: int) -> bool:
                return bool(module.records)

        def compute(self, addresses: dict[str, int]) -> Error:
            """The GPU's work in the order of the stream: the addresses must still be valid."""
            feeds = {}
            for name, (mode, _, kind) in self.engine.tensors.items():
                if mode is TensorIOMode.INPUT:
                    view = self._memory(name, kind, addresses[name])
                    if view is None:
                        return Error.cudaErrorIllegalAddress
                    feeds[name] = view.copy()
            values = self.engine.session.run(None, feeds)
            for port, value in zip(self.engine.session.get_outputs(), values, strict=True):
                view = self._memory(port.name, value.dtype, addresses[port.name])
                if view is None:
                    return Error.cudaErrorIllegalAddress
                view[...] = value
            return Error.cudaSuccess

        def _memory(self, name: str, kind: Any, address: int) -> Any:
            shape = self.get_tensor_shape(name)
            size = int(np.prod(shape)) * np.dtype(kind).itemsize
            found = cuda.find(address, size, cuda.current)
            if found is None:
                return None
            start = address - found.address
            return found.content[start : start + size].view(kind).reshape(shape)

    class RuntimeCache:
        """The compiled kernels. A cache of another GPU is refused, and leaves the cache as it is."""

        def __init__(self) -> None:
            self.content = b""

        def deserialize(self, content: bytes) -> bool:
            good = content.startswith(b"compiled on sm89")
            self.content = content if good else b""
            return good

        def serialize(self) -> memoryview:
            module.calls["compiled" if not self.content else "reused"] += 1
            return memoryview(self.content or b"compiled on sm89")

    class CudaGraphStrategy(Enum):
        DISABLED, WHOLE_GRAPH_CAPTURE = range(2)

    class RuntimeConfig:
        cuda_graph_strategy = CudaGraphStrategy.DISABLED

        def create_runtime_cache(self) -> RuntimeCache:
            return RuntimeCache()

        def set_runtime_cache(self, compiled: RuntimeCache) -> bool:
            self.compiled = compiled
            return True

    module.ILogger, module.Runtime, module.TensorIOMode = ILogger, Runtime, TensorIOMode
    module.ICudaEngine, module.IExecutionContext = Engine, Context
    module.nptype = lambda kind: kind
    if name == "tensorrt_rtx":
        module.IRuntimeCache, module.IRuntimeConfig = RuntimeCache, RuntimeConfig
        module.CudaGraphStrategy = CudaGraphStrategy
    return module


def _small_config(shape: tuple[int | str, ...], sizes: dict[str, int]) -> tuple[int, ...]:
    return tuple(resolve_dimension(size, sizes) for size in shape)
