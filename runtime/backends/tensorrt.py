"""TensorRT: runs the engines that `fewstep build` added to a bundle for this GPU.

    fewstep.runtime.load("bundle", "int8", backend=TensorRt())                  # NVIDIA's wheel, or JetPack's
    fewstep.runtime.load("bundle", "int8", backend=TensorRt("tensorrt-rtx"))    # GeForce RTX and RTX PRO

One module supports both, because they share a runtime API (read in TensorRT 10.3 to 11 and TensorRT-RTX 1.7). Loading
allocates everything and runs once. A call copies its inputs through page-locked memory, runs, and copies its outputs.
A prologue or conditioner without an engine for this GPU runs on the CPU with ONNX Runtime.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Literal

from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError, quote_path
from fewstep.runtime.backends import RUN_ONCE, LoadedGraph, cuda, find_graph
from fewstep.runtime.backends.batch_splitting import BatchSplitter
from fewstep.runtime.backends.checks import import_package
from fewstep.runtime.backends.device_lock import device_lock
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.resource_pool import ResourcePool
from fewstep.runtime.backends.tensorrt_engine import BATCH, ExecutionLane, LoadedEngine, prepare_contexts, read_tensors
from fewstep.runtime.backends.tensorrt_log import last_error, logger
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.engine_key import EngineFacts, capability
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.platforms import TENSORRT, body_name
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")
MANY = 16  # layers from which recording is worthwhile: each costs the CPU a launch of some microseconds
BODIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "float32": (body_name("float32"),),
        "float16": (body_name("float16"),),
        "bfloat16": (body_name("bfloat16"),),
        "int8": (body_name("int8", TENSORRT.name),),
    }
)
DATA_CENTRE = range(90, 120)  # Hopper and data-centre Blackwell, on which tensorrt-rtx 1.7 loads no engine at all
INSTALL = {
    "tensorrt": "on a Jetson: apt install python3-libnvinfer (of JetPack 6 or later), in an environment with "
    "--system-site-packages; elsewhere: pip install 'fewstep[tensorrt]'",
    "tensorrt-rtx": "pip install 'fewstep[tensorrt-rtx]'",
}


@dataclass(frozen=True)
class TensorRt:
    """The backend for TensorRT or TensorRT-RTX.

    name: "tensorrt" or "tensorrt-rtx".
    device: the number of the GPU.
    contexts: how many calls may run at once; each takes the engine's working memory. Further threads wait.
    trust_engines: whether to load engines that another machine built. An engine is native code with the user's rights.
    cuda_graph: whether to launch the calls of one batch size as a CUDA graph, which saves CPU time. None: only if an
        engine has MANY layers or more.
    """

    name: Literal["tensorrt", "tensorrt-rtx"] = "tensorrt"
    device: int = 0
    contexts: int = 1
    trust_engines: bool = False
    cuda_graph: bool | None = None

    def __post_init__(self) -> None:
        if self.name not in INSTALL:
            raise UserError(f"there is no TensorRT {self.name!r}", f"choose {' or '.join(INSTALL)}")
        check_integer("contexts", self.contexts, 1)

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return BODIES

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        here = self.engine_facts()
        if name in RUN_ONCE and not engine_files.is_built(bundle, name, here):
            LOG.info("%s: the %s has no engine for %s, and runs on the CPU", bundle.path, name, here.device)
            return OnnxRuntime().load(bundle, name)
        program = engine_files.find(bundle, name, here, self.trust_engines)
        build = f"fewstep build {quote_path(bundle.path)} --backend {self.name}"
        brings = bool(program.key.flags.get("version_compatible"))
        with device_lock("cuda", self.device).share():  # it allocates
            network = self.open(program.content, find_graph(bundle, name), name, program.key.device, build, brings)
        return BatchSplitter(network, network.tensors.profile[BATCH][2]) if name in RUN_ONCE else network

    def open(
        self,
        program: bytes,
        graph: GraphEntry,
        name: str,
        device: str,
        build: str,
        brings: bool = False,
        is_kept: bool = True,
    ) -> LoadedEngine:
        """Load an engine that the caller trusts, and run it once. Raises UserError if its inputs and outputs are not
        those of its graph.

        build: the command that builds the engine again, for errors.
        brings: whether the engine is version-compatible, and so contains its own runtime.
        is_kept: whether to cache the code that TensorRT-RTX compiles.
        """
        trt, here = self.module(), self.engine_facts()
        cuda.set_device(self.device)
        runtime = trt.Runtime(logger(trt))
        if brings:
            runtime.engine_host_code_allowed = True
        engine = runtime.deserialize_cuda_engine(program)
        if engine is None:
            what = f"{self.name} {trt.__version__} cannot load {name!r}: {last_error(trt)}"
            raise UserError(what, f"build it again: {build}")
        what = f"the {self.name} engine of {name!r} for {device}"
        tensors = read_tensors(trt, engine, graph, what, build)
        compiled = f"{sha256(program).hexdigest()[:32]}-{here.backend_version}-{here.device}.jit"
        many = self.cuda_graph is None and engine.num_layers >= MANY
        contexts = prepare_contexts(trt, engine, compiled, self.cuda_graph or many)
        lanes = [ExecutionLane(trt, contexts, tensors, self.device, what) for _ in range(self.contexts)]
        for lane in lanes:
            lane.warm_up()
        if is_kept:
            contexts.store()
        return LoadedEngine(ResourcePool(lanes), engine, runtime, tensors, what, build)

    def module(self) -> Any:
        """Import TensorRT's Python module. Raises UserError if it is not installed."""
        return import_package(self.name.replace("-", "_"), self.name, INSTALL[self.name])

    def engine_facts(self) -> EngineFacts:
        """Return the properties of this machine that an engine must match: TensorRT's version and the device. Raises
        UserError for a device that TensorRT-RTX does not support."""
        device, multiprocessors = cuda.describe(self.device)
        if self.name == "tensorrt-rtx" and capability(device) in DATA_CENTRE:
            raise UserError(f"tensorrt-rtx does not support GPUs of {device}", "use tensorrt, or onnxruntime-cuda")
        return EngineFacts(self.name, str(self.module().__version__), device, multiprocessors)
