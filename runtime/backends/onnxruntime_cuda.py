"""ONNX Runtime on NVIDIA GPUs: its CUDA provider, in float32 or float16.

    fewstep.runtime.load("bundle", "float16", backend=OnnxRuntimeCuda())

It has no 8-bit convolutions, so int8 runs on TensorRT. TF32 is off.
"""

import contextlib
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends import RUN_ONCE, LoadedGraph, find_graph
from fewstep.runtime.backends.checks import import_package, path_text
from fewstep.runtime.backends.device_lock import device_lock
from fewstep.runtime.backends.onnxruntime import FATAL_ONLY, Session
from fewstep.runtime.backends.onnxruntime_cuda_graph import CudaGraphSession, LockedSession
from fewstep.runtime.backends.port_checks import check_ports
from fewstep.runtime.bundle.reading import Bundle

LOG = logging.getLogger("fewstep")
PROVIDER = "CUDAExecutionProvider"
BODIES: Mapping[str, tuple[str, ...]] = MappingProxyType({"float32": ("float32",), "float16": ("float16",)})


@dataclass(frozen=True)
class OnnxRuntimeCuda:
    """The CUDA provider on the GPU number `device`.

    Steps are launched as CUDA graphs, unless the CPU computes a part of the body.
    """

    device: int = 0

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return BODIES

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        graph = find_graph(bundle, name)
        file = bundle.graph(graph)
        onnxruntime = import_package("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[gpu]'")
        if PROVIDER not in onnxruntime.get_available_providers():
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} was built without {PROVIDER}",
                "pip uninstall onnxruntime, then pip install 'fewstep[gpu]'; on a Jetson install NVIDIA's build of it",
            )
        _find_libraries(onnxruntime)

        def open_graph(cuda_graph: bool = False) -> Session:
            session = open_session(onnxruntime, file, (PROVIDER, provider_settings(self.device, cuda_graph)))
            onnxruntime.set_default_logger_severity(FATAL_ONLY)  # its default logger reports cuDNN's trials as errors
            check_ports(bundle, graph, session.get_inputs, session.get_outputs)
            outputs = tuple(output.name for output in session.get_outputs())
            return Session(file.name, session, outputs, takes_optional=False)  # LoRA slots are not tested on GPUs

        lock = device_lock("cuda", self.device)
        with lock.shared():
            if name in RUN_ONCE:  # runs once per sample
                return LockedSession(open_graph(), lock)
            try:
                session = open_graph(cuda_graph=True)
            except UserError as error:  # for example if the provider leaves operations to the CPU
                LOG.info("%s runs without a CUDA graph: %s", file.name, error.what)
                return LockedSession(open_graph(), lock)
        return CudaGraphSession(onnxruntime, session, open_graph, ("cuda", self.device))


def provider_settings(device: int, cuda_graph: bool = False) -> dict[str, str]:
    """Return settings of the CUDA provider, with its default TF32 off. `cuda_graph` records runs."""
    return {"device_id": str(device), "use_tf32": "0", "enable_cuda_graph": str(int(cuda_graph))}


def open_session(onnxruntime: Any, graph: Path, provider: tuple[str, Mapping[str, Any]]) -> Any:
    """Open a session on a provider. Raises UserError if it does not start; ONNX Runtime would silently fall back."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = FATAL_ONLY
    options.intra_op_num_threads = 1  # the CPU only waits
    name, settings = provider
    what = f"onnxruntime {onnxruntime.__version__}"
    path = path_text(graph)
    try:
        session = onnxruntime.InferenceSession(path, options, providers=[(name, dict(settings))], enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions share no base class except Exception
        raise UserError(
            f"{what} cannot load {graph.name} on {name}: {first_line(error)}", "see `fewstep doctor`"
        ) from error
    if name not in session.get_providers():
        raise UserError(
            f"{what} cannot start {name}",
            "install the CUDA and cuDNN it was built for: pip install 'onnxruntime-gpu[cuda,cudnn]'",
        )
    return session


def _find_libraries(onnxruntime: Any) -> None:
    """Preload CUDA and cuDNN from pip's folders. onnxruntime's messages go to the log."""
    if hasattr(onnxruntime, "preload_dlls"):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            onnxruntime.preload_dlls()
        LOG.debug("onnxruntime, looking for CUDA: %s", printed.getvalue().strip())
