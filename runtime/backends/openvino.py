"""OpenVINO: runs bundles on CPUs, with its own int8 convolutions.

    fewstep.runtime.load("bundle", "int8", backend=OpenVino())

A body is compiled for each batch and each choice of its other free sizes when it first occurs. With a dynamic batch,
the CPU plugin runs the operations between convolutions separately. With fixed sizes it fuses each chain into one
kernel: a step takes 0.8 of the time in float32, and half of it in int8. (Measured in OpenVINO 2026.4 on AVX512-VNNI,
    with a UNet of 2.7 M parameters.)
"""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as called_once
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.argument_checks import check_integer
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import RUN_ONCE, Arrays, LoadedGraph, body_with_graph, find_graph
from fewstep.runtime.backends.checks import call_error, check_names, check_threads, import_package, path_text
from fewstep.runtime.backends.openvino_agreement import check
from fewstep.runtime.backends.openvino_dft import dft_extension
from fewstep.runtime.backends.port_checks import Port, check_ports
from fewstep.runtime.backends.resource_pool import ResourcePool
from fewstep.runtime.backends.shape_cache import ShapeCache
from fewstep.runtime.bundle.manifest import GraphEntry, TensorEntry
from fewstep.runtime.bundle.platforms import OPENVINO, OPENVINO_BF16, WEIGHTS_ONLY, body_name, rank_platforms
from fewstep.runtime.bundle.reading import Bundle
from fewstep.runtime.kinds.sizes import Dimension, default_sizes, resolve_dimension
from fewstep.runtime.machine import cache
from fewstep.runtime.machine.cpu import default_threads, this_cpu
from fewstep.runtime.machine.cpu_quota import cpu_quota

FloatType = Literal["f32", "bf16"]

NO_SHAPE = "rank has to be known"  # OpenVINO's message for an operation whose input was not converted
ELSEWHERE = "run the bundle on ONNX Runtime"
TYPES = {  # OpenVINO's name of a type -> onnxruntime's
    "f32": "tensor(float)",
    "f16": "tensor(float16)",
    "i64": "tensor(int64)",
    "i32": "tensor(int32)",
    "u8": "tensor(uint8)",
    "i8": "tensor(int8)",
    "boolean": "tensor(bool)",
}


@dataclass(frozen=True)
class OpenVino:
    """A device of OpenVINO.

    device: OpenVINO's name of the device. Only "CPU" is verified.
    threads: threads per call; 0 means one per physical core that the process may use.
    contexts: how many calls may run at once; they share the threads. Further threads of the program wait.
    batch: the batch to compile for while loading; a guided sample has two rows. Other batches are compiled at their
        first call.
    float_type: the type in which float32 graphs are computed. OpenVINO's default is bf16 if the CPU has it, which is
        faster but visible in samples.
    cached: keep compiled graphs in the user's cache folder. Loading them again takes half the time.
    """

    device: str = "CPU"
    threads: int = 0
    contexts: int = 1
    batch: int = 1
    float_type: FloatType = "f32"
    cached: bool = True

    def __post_init__(self) -> None:
        check_threads(self.threads)
        check_integer("contexts", self.contexts, 1)
        check_integer("batch", self.batch, 1)

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """For each precision, the names of the bodies that this backend runs well, the best first."""
        backend = OPENVINO_BF16.backend if self.float_type == "bf16" else OPENVINO.backend
        int8 = tuple(body_name("int8", platform.name) for platform in rank_platforms(backend, this_cpu()))
        only_weights = {precision: (precision,) for precision in WEIGHTS_ONLY}
        return MappingProxyType({"float32": (body_name("float32"),), "int8": int8, **only_weights})

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        """Load a graph. Raises UserError if it cannot be loaded, or if OpenVINO computes it differently from
        onnxruntime.

        Each machine compares a graph once. Without onnxruntime, raises UserError for a graph with an operation that
        OpenVINO is known to compute incorrectly.
        """
        exact = replace(self, float_type="f32")
        opened = called_once(partial(self.open, bundle, name))

        def load_float(judged: str) -> LoadedGraph:
            """Load a float graph for the comparison. If it is the graph that is being loaded, it is not compiled
            twice."""
            return opened() if judged == name and self == exact else exact.open(bundle, judged)

        check(self, bundle, name, load_float)
        return opened()

    def load_companion(self, bundle: Bundle, name: str) -> LoadedGraph:
        """Load a graph of the text encoder or the autoencoder, by its name. It is compiled for each size when that
        first occurs. One in int8 was made for onnxruntime, which then runs it. Raises UserError as `load` does."""
        body = body_with_graph(bundle, name)
        if body is not None and body.precision == "int8":
            from fewstep.runtime.backends.onnxruntime import OnnxRuntime  # seldom needed

            return OnnxRuntime(self.threads).load_companion(bundle, name)
        check(self, bundle, name, partial(replace(self, float_type="f32")._open_companion, bundle))
        return self._open_companion(bundle, name)

    def check(self, bundle: Bundle) -> None:
        """Raise UserError if OpenVINO cannot load the float32 body, or computes it incorrectly.

        The result is cached on this machine, so a body that was already checked is not loaded again.
        """
        check(self, bundle, "float32", partial(replace(self, float_type="f32").open, bundle))

    @property
    def version(self) -> str:
        """The version of OpenVINO, without the build number."""
        return version()

    def open(self, bundle: Bundle, name: str) -> LoadedGraph:
        """Load a graph without comparing its results with those of onnxruntime."""
        graph = find_graph(bundle, name)
        compile_for = self._compiler(bundle, graph)
        if name in RUN_ONCE:  # graphs that run once per sample take any number of rows
            return compile_for(None)
        network = ShapeCache(graph, compile_for)
        network.graph_for_sizes(
            {"batch": self.batch, **default_sizes(bundle.manifest.x_shape, bundle.manifest.sizes)}
        )  # compiled now, so that it fails while loading if it fails
        return network

    def _open_companion(self, bundle: Bundle, name: str) -> LoadedGraph:
        graph = find_graph(bundle, name)
        return ShapeCache(graph, self._compiler(bundle, graph))

    def _compiler(self, bundle: Bundle, graph: GraphEntry) -> Callable[[Mapping[str, int] | None], LoadedGraph]:
        """Read a graph, and return a function that compiles it for sizes by name, or for any sizes."""
        core = self.core()
        model = read_model(core, bundle.graph(graph))
        inputs, outputs = partial(_ports, model.inputs, graph.inputs), partial(_ports, model.outputs, graph.outputs)
        check_ports(bundle, graph, inputs, outputs)

        def compile_for(sizes: Mapping[str, int] | None) -> LoadedGraph:
            fixed, kind = None, _dynamic_shape_call
            if sizes is not None:
                fixed = {port.name: [resolve_dimension(size, sizes) for size in port.shape] for port in graph.inputs}
                kind = _static_shape_call
            made = self.compile(core, model, graph.file, fixed)
            return _Requests(
                graph, ResourcePool([kind(made.create_infer_request(), graph) for _ in range(self.contexts)])
            )

        return compile_for

    def core(self) -> Any:
        """Return this process's `openvino.Core`, after checking that it has the device.

        Raises UserError if OpenVINO is not installed, or has no such device.
        """
        core = _process_core(import_openvino())
        try:
            core.get_property(self.device, "FULL_DEVICE_NAME")
        except Exception as error:  # OpenVINO's exceptions share no base class except Exception
            have = ", ".join(core.available_devices)
            what = f"OpenVINO has no device {self.device!r}: {last_line(error)}"
            raise UserError(what, f"choose one of {have}") from error
        return core

    def compile(self, core: Any, model: Any, file: str, shapes: Mapping[str, list[int]] | None = None) -> Any:
        """Compile a model to an `openvino.CompiledModel`. This sets the shapes of the model's inputs to `shapes`."""
        try:
            if shapes is not None:
                model.reshape(shapes)
            return core.compile_model(model, self.device, self.settings())
        except Exception as error:
            raise UserError(
                f"OpenVINO {version()} cannot compile {file} for {self.device}: {last_line(error)}",
                ELSEWHERE,
            ) from error

    def settings(self) -> dict[str, Any]:
        """Return the properties that are passed to OpenVINO, by their names."""
        settings: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": self.float_type,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": self.contexts,
        }
        if self.device == "CPU":
            # with pinning, the threads of two samplers in one program would share the first cores
            settings["ENABLE_CPU_PINNING"] = False
            quota = cpu_quota()  # OpenVINO itself respects affinities, but not quotas
            if threads := self.threads or (0 if quota is None else default_threads()):
                settings["INFERENCE_NUM_THREADS"] = int(threads)
        if self.cached and (folder := _cache_folder()):
            settings["CACHE_DIR"] = str(folder)
        return settings


@dataclass(frozen=True)
class _Requests:
    """A compiled graph with several inference requests, each of which serves one call at a time."""

    graph: GraphEntry
    lanes: ResourcePool[LoadedGraph]

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        check_names(self.graph, feeds)  # OpenVINO would reuse a missing input from the previous call
        with self.lanes.take() as call:
            try:
                return call(feeds)
            except Exception as error:
                raise call_error(self.graph.file, feeds, last_line(error)) from error


def _static_shape_call(request: Any, graph: GraphEntry) -> LoadedGraph:
    """Return a call for fixed shapes. It copies arrays into the request's memory: wrapping each one takes 45 us."""
    memory = {tensor.name: request.get_tensor(tensor.name).data for tensor in (*graph.inputs, *graph.outputs)}

    def call(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        for name in (tensor.name for tensor in graph.inputs):
            value, held = feeds[name], memory[name]
            if (value.shape, value.dtype) != (held.shape, held.dtype):  # numpy would broadcast or round it
                raise ValueError(f"{name} takes {list(held.shape)} of {held.dtype}")
            held[...] = value
        request.start_async()
        request.wait()
        return {tensor.name: memory[tensor.name].copy() for tensor in graph.outputs}

    return call


def _dynamic_shape_call(request: Any, graph: GraphEntry) -> LoadedGraph:
    """Return a function that runs the graph for inputs of any shapes. OpenVINO reads the arrays in place, and its
    results are copied."""

    def call(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        for tensor in graph.inputs:
            if feeds[tensor.name].dtype != tensor.dtype:  # OpenVINO would round it
                raise ValueError(f"{tensor.name} takes {tensor.dtype}")
        results = request.infer(dict(feeds), share_inputs=True)
        return {tensor.name: results[tensor.name] for tensor in graph.outputs}

    return call


def _ports(ports: Sequence[Any], tensors: Sequence[TensorEntry]) -> list[Port]:
    """Return the inputs or outputs of a model. OpenVINO has no names of dynamic axes, so they get those of the
    graph."""
    named = {tensor.name: tensor.shape for tensor in tensors}
    return [_port(port, named.get(port.get_any_name(), ())) for port in ports]


def _port(port: Any, named: Sequence[Dimension]) -> Port:
    """Return an input or output of a model. A dynamic axis gets its name from the graph's shape `named`."""
    kind = port.get_element_type().get_type_name()
    sizes = [None if size.is_dynamic else size.get_length() for size in port.get_partial_shape()]
    shape = tuple(
        size if size is not None else named[axis] if axis < len(named) and isinstance(named[axis], str) else "batch"
        for axis, size in enumerate(sizes)
    )
    return Port(port.get_any_name(), TYPES.get(kind, kind), shape)


def import_openvino() -> Any:
    """Import the package. Raises UserError if it cannot be imported."""
    return import_package("openvino", "openvino", "pip install 'fewstep[openvino]'")


@called_once
def _process_core(openvino: Any) -> Any:
    """Return one `openvino.Core`, which is never freed.

    With its last Core, OpenVINO frees the stack on which the CPU plugin lets the main thread handle signals. If another
    thread frees it, the next signal, such as that of Ctrl-C, ends the process with a segmentation fault.
    """
    core = openvino.Core()
    core.add_extension(dft_extension())
    return core


def version() -> str:
    """Return OpenVINO's version, without the build number."""
    return str(import_openvino().__version__).partition("-")[0]


def read_model(core: Any, file: Path) -> Any:
    """Read a graph as an `openvino.Model` with a dynamic batch."""
    path = path_text(file)
    try:
        return core.read_model(path)
    except Exception as error:
        operations = explain_conversion(str(error))
        what = f"OpenVINO {version()} cannot read {file.name}: {operations or last_line(error)}"
        raise UserError(what, f"replace that operation by others, or {ELSEWHERE}" if operations else "") from error


def explain_conversion(message: str) -> str:
    """Describe the operations that OpenVINO does not convert, with their nodes and OpenVINO's reasons; "" if the
    message names none. An operation that fails only because an operation before it was not converted is left out."""
    sections = re.split(r"^-- ", message.partition("Summary:")[0], flags=re.MULTILINE)[1:]
    causes = [section for section in sections if NO_SHAPE not in section] or sections
    found = [(re.search(r"<Node\((\w+)\): (.*?)>'", cause), cause.strip().splitlines()[-1]) for cause in causes]
    return ", ".join(f"{node[1]} of node {node[2]!r} ({reason.strip(' .')})" for node, reason in found if node)


def last_line(error: Exception) -> str:
    """Return the last line of an error. Earlier lines are locations in OpenVINO's source."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__


def _cache_folder() -> Path | None:
    """Return the folder in which OpenVINO caches compiled graphs; None if it cannot be written."""
    try:
        folder = cache.path("openvino", "")
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError:
        return None
    return folder if os.access(folder, os.W_OK) else None
