"""QNN: Qualcomm's Hexagon (HTP), or its arithmetic executed on x86 where no such processor is.

    fewstep.runtime.load("bundle", "int8", backend=Qnn())

It takes graphs of integers alone, so it runs the bodies of target `qnn`, and float graphs ahead of them stay on the
CPU. A body is compiled for each batch, and for each choice of its other free sizes, that it meets. onnxruntime-qnn
brings the compiler, and on x86 the kernels of HTP as a program of this CPU: the same integers, some thousand times as
slowly. So samples there say what a device will make, and times say nothing.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import AHEAD, Arrays, LoadedGraph, graph_of
from fewstep.runtime.backends.checks import imported, path_text
from fewstep.runtime.backends.interface import difference
from fewstep.runtime.backends.onnxruntime import FATAL_ONLY, OnnxRuntime, Session, first_line
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.platforms import QNN, body_name
from fewstep.runtime.bundle.reading import EXPORT_AGAIN, Bundle
from fewstep.runtime.sizes import read_sizes

PROVIDER = "QNNExecutionProvider"
BODIES: Mapping[str, tuple[str, ...]] = MappingProxyType({"int8": (body_name("int8", QNN.name),)})
CHIPS = {  # name: Qualcomm's number of the chip, and the version of its HTP (ExecuTorch's qc_schema.py has both)
    "sm8550": (43, 73),
    "sm8650": (57, 75),
    "sm8750": (69, 79),
    "sm8850": (87, 81),
    "sc8380xp": (60, 73),
}
EMULATED = "sc8380xp"  # where no NPU says what it is
SIZES = 4  # for so many batches and sizes a body stays compiled


@dataclass(frozen=True)
class Qnn:
    """Hexagon's HTP.

    chip: one of CHIPS that is compiled for. None: the NPU of this machine, or EMULATED.
    """

    chip: str | None = None

    def __post_init__(self) -> None:
        if self.chip is not None and self.chip not in CHIPS:
            raise UserError(f"unknown chip {self.chip!r}", f"choose from {', '.join(CHIPS)}")

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return BODIES

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        if name in AHEAD:
            return OnnxRuntime().load(bundle, name)
        body = bundle.body(name.partition("/")[0])
        if body.target != QNN.name:
            raise UserError(
                f"body {name!r} computes in float, and HTP runs integers alone",
                f"fewstep calibrate {bundle.path} --target {QNN.name}, and run --precision int8",
            )
        graph = graph_of(bundle, name)
        opened = OnnxRuntime().open(bundle.graph(graph))
        if problem := difference(graph, opened.session.get_inputs, opened.session.get_outputs):
            raise UserError(f"{bundle.path}: {problem}", EXPORT_AGAIN)
        return CompiledBySize(self, bundle.graph(graph), graph)

    def options(self, onnxruntime: Any) -> Any:
        """Session options with HTP alone: what it does not take is an error, not the CPU's work."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        device, is_npu = device_of(onnxruntime)
        settings = {"backend_path": module().get_qnn_htp_path()}
        if self.chip is not None or not is_npu:
            number, version = CHIPS[self.chip or EMULATED]
            settings |= {"soc_model": str(number), "htp_arch": str(version)}
        options.add_provider_for_devices([device], settings)
        return options

    def open(self, graph: Path, sizes: Mapping[str, int]) -> Session:
        """A graph compiled for these sizes, "batch" among them."""
        onnxruntime = imported("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[qnn]'")
        options = self.options(onnxruntime)
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        try:
            session = onnxruntime.InferenceSession(path_text(graph), options)
        except Exception as error:  # its exceptions share no base class but Exception
            raise UserError(
                f"QNN {version()} cannot compile {graph.name}: {first_line(error)}",
                "run the bundle on onnxruntime, or report the operation that it names",
            ) from error
        return Session(graph.name, session, tuple(output.name for output in session.get_outputs()))


class CompiledBySize:
    """A graph, compiled once for each choice of its free sizes. Whoever comes meanwhile waits."""

    def __init__(self, backend: Qnn, file: Path, graph: GraphEntry) -> None:
        self._backend, self._file, self._graph = backend, file, graph
        self._sessions: OrderedDict[tuple[tuple[str, int], ...], Session] = OrderedDict()  # the last used at the end
        self._lock = Lock()

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        return self._session(feeds)(feeds)

    def _session(self, feeds: Arrays) -> Session:
        sizes: dict[str, int] = {}
        for tensor in self._graph.inputs:
            if tensor.name in feeds:
                sizes |= read_sizes(tensor.shape, feeds[tensor.name].shape)
        key = tuple(sorted(sizes.items()))
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = self._backend.open(self._file, sizes)
                if len(self._sessions) > SIZES:
                    self._sessions.popitem(last=False)
            self._sessions.move_to_end(key)
            return self._sessions[key]


def module() -> Any:
    """The package. UserError if it cannot be imported."""
    return imported("onnxruntime_qnn", "onnxruntime-qnn", "pip install 'fewstep[qnn]'")


def version() -> str:
    return str(module().__version__)


@cache
def _registered(onnxruntime: Any) -> None:
    onnxruntime.register_execution_provider_library(PROVIDER, module().get_library_path())


def device_of(onnxruntime: Any) -> tuple[Any, bool]:
    """The device of onnxruntime's that HTP runs on, and whether it is an NPU: else its arithmetic is executed here."""
    try:
        _registered(onnxruntime)
        devices = [each for each in onnxruntime.get_ep_devices() if each.ep_name == PROVIDER]
    except Exception as error:
        raise UserError(f"QNN {version()} does not start: {first_line(error)}", "see `fewstep doctor`") from error
    npus = [each for each in devices if each.device.type == onnxruntime.OrtHardwareDeviceType.NPU]
    if not devices:
        raise UserError(f"QNN {version()} names no device", "install onnxruntime 1.24 or later")
    return (npus or devices)[0], bool(npus)
