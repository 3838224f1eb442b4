"""QNN: Qualcomm's Hexagon processor (HTP), or its emulation on x86 CPUs.

    fewstep.runtime.load("bundle", "int8", backend=Qnn())

HTP runs only integer graphs. So this backend runs the bodies of target `qnn`, and leaves the float graphs before the
first step to the CPU. A body is compiled for each batch and each choice of its other free sizes when it first occurs.
onnxruntime-qnn contains the compiler, and on x86 an emulation of the HTP kernels: it computes the same integers, about
a thousand times slower. So emulated samples are those of a device, but emulated times mean nothing.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from fewstep.plans.errors import UserError, first_line, quote_path
from fewstep.runtime.backends import RUN_ONCE, LoadedGraph, find_graph
from fewstep.runtime.backends.checks import import_package, path_text
from fewstep.runtime.backends.onnxruntime import FATAL_ONLY, OnnxRuntime, Session
from fewstep.runtime.backends.shape_cache import ShapeCache
from fewstep.runtime.bundle import engine_files
from fewstep.runtime.bundle.engine_key import EngineFacts
from fewstep.runtime.bundle.platforms import QNN, QNN_8BIT, body_name
from fewstep.runtime.bundle.reading import Bundle

PROVIDER = "QNNExecutionProvider"
BODIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"int8": tuple(body_name("int8", target.name) for target in (QNN, QNN_8BIT))}
)
CHIPS = {  # name -> Qualcomm's number of the chip, and the version of its HTP (both from ExecuTorch's qc_schema.py)
    "sm8550": (43, 73),
    "sm8650": (57, 75),
    "sm8750": (69, 79),
    "sm8850": (87, 81),
    "sc8380xp": (60, 73),
}
EMULATED = "sc8380xp"  # the chip that is emulated if there is no NPU
STDOUT = Lock()  # a lock, since file descriptors belong to the whole process
REGISTERING = Lock()  # a lock, since onnxruntime fails if a provider is registered twice


@dataclass(frozen=True)
class Qnn:
    """Qualcomm's QNN with the HTP backend, for Hexagon NPUs.

    chip: the chip to compile for, one of CHIPS. None stands for the NPU of this machine, or for EMULATED without one.
    trust_engines: whether to load context binaries that another machine built. They contain native code.
    """

    chip: str | None = None
    trust_engines: bool = False

    def __post_init__(self) -> None:
        if self.chip is not None and self.chip not in CHIPS:
            raise UserError(f"unknown chip {self.chip!r}", f"choose from {', '.join(CHIPS)}")

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return BODIES

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        if name in RUN_ONCE:
            return OnnxRuntime().load(bundle, name)
        body = bundle.body(name.partition("/")[0])
        if body.target not in (QNN.name, QNN_8BIT.name):
            raise UserError(
                f"body {name!r} computes in float, but HTP runs only integers",
                f"fewstep calibrate {quote_path(bundle.path)} --target {QNN.name}, and run --precision int8",
            )
        graph, here = find_graph(bundle, name), self.engine_facts()
        network = ShapeCache(graph, lambda sizes: self.open(graph.file, path_text(bundle.graph(graph)), sizes))
        if engine_files.is_built(bundle, name, here):
            program = engine_files.find(bundle, name, here, self.trust_engines)
            sizes = {"batch": program.key.batches[1]} | {size: ends[1] for size, ends in program.key.sizes.items()}
            network.opened[network.key(sizes)] = self.open(f"the {here.device} engine of {name!r}", program.content, {})
        else:
            OnnxRuntime().load_graph(bundle, graph)  # raises UserError if it does not match the manifest
        return network

    def engine_facts(self) -> EngineFacts:
        """Return the properties of this machine that a context binary must match: QNN's version and the chip. Unless
        `chip` is set, the chip of a real NPU is unknown."""
        chip = self.chip or (EMULATED if self.is_emulated() else "")
        return EngineFacts(QNN.name, version(), chip, 0)

    def is_emulated(self) -> bool:
        """Return True if this machine has no NPU, so that its CPU emulates HTP."""
        return not find_device(onnxruntime_module())[1]

    def options(self, onnxruntime: Any) -> Any:
        """Return session options for HTP only: an operation that it does not support is an error."""
        options = onnxruntime.SessionOptions()
        options.log_severity_level = FATAL_ONLY
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        device, is_npu = find_device(onnxruntime)
        settings = {"backend_path": import_qnn().get_qnn_htp_path()}
        if self.chip is not None or not is_npu:
            number, version = CHIPS[self.chip or EMULATED]
            settings |= {"soc_model": str(number), "htp_arch": str(version)}
        options.add_provider_for_devices([device], settings)
        return options

    def open(self, label: str, graph: str | bytes, sizes: Mapping[str, int], context: Path | None = None) -> Session:
        """Load a graph's file, compiled for these sizes (including "batch"), or a context binary, which has its own
        sizes.

        label: the name of the graph in messages.
        context: the file to which the context binary is written; None to write none.
        """
        onnxruntime = onnxruntime_module()
        options = self.options(onnxruntime)
        for name, size in sizes.items():
            options.add_free_dimension_override_by_name(name, size)
        if context is not None:
            entries = {"enable": "1", "embed_mode": "1", "file_path": path_text(context)}
            for entry, value in entries.items():
                options.add_session_config_entry(f"ep.context_{entry}", value)
        try:
            with _stdout_to_stderr():
                session = onnxruntime.InferenceSession(graph, options)
        except Exception as error:  # onnxruntime's exceptions share no base class except Exception
            raise UserError(
                f"QNN {version()} cannot compile {label}: {first_line(error)}",
                "run the bundle on onnxruntime, or report the operation that it names",
            ) from error
        return Session(label, session, tuple(output.name for output in session.get_outputs()))


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Redirect the library's output to stderr, because stdout is for results. Its emulator prints while it loads."""
    with STDOUT:
        if sys.stdout is not None:
            sys.stdout.flush()
        stdout = os.dup(1)
        try:
            os.dup2(2, 1)
            yield
        finally:
            os.dup2(stdout, 1)
            os.close(stdout)


def onnxruntime_module() -> Any:
    return import_package("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[qnn]'")


def import_qnn() -> Any:
    """Import the package. Raises UserError if it cannot be imported."""
    return import_package("onnxruntime_qnn", "onnxruntime-qnn", "pip install 'fewstep[qnn]'")


def version() -> str:
    return str(import_qnn().__version__)


@cache
def _register_provider(onnxruntime: Any) -> None:
    onnxruntime.register_execution_provider_library(PROVIDER, import_qnn().get_library_path())


def find_device(onnxruntime: Any) -> tuple[Any, bool]:
    """Return onnxruntime's device for HTP, and whether it is an NPU. If not, HTP is emulated on this CPU."""
    try:
        with REGISTERING:
            _register_provider(onnxruntime)
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == PROVIDER]
    except Exception as error:
        raise UserError(f"QNN {version()} does not start: {first_line(error)}", "see `fewstep doctor`") from error
    npus = [device for device in devices if device.device.type == onnxruntime.OrtHardwareDeviceType.NPU]
    if not devices:
        raise UserError(f"QNN {version()} offers no device", "install onnxruntime 1.24 or later")
    return (npus or devices)[0], bool(npus)
