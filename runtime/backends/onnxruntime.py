"""ONNX Runtime on the CPU."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends import Arrays, LoadedGraph, body_with_graph, find_graph
from fewstep.runtime.backends.checks import call_error, check_threads, import_package, path_text
from fewstep.runtime.backends.port_checks import check_ports
from fewstep.runtime.backends.probe import refuse_wrong
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.onnx_references import external_data_files
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, WEIGHTS_ONLY, body_name, needs_wide_sums, rank_platforms
from fewstep.runtime.bundle.reading import Bundle, bundle_home
from fewstep.runtime.links import Home, is_link
from fewstep.runtime.machine.cpu import engine_threads, this_cpu

WIDE_SUMS = "session.x64quantprecision"  # adds 8-bit products in 32 bits, also on x86 CPUs without VNNI
ANOTHER_VERSION = "pip install --upgrade onnxruntime, or choose another backend (--backend openvino)"
RIGHT_WITH_AMX = (1, 25)  # earlier versions return garbage for int8 products of 32 rows and up to 84 columns with AMX
FATAL_ONLY = 4  # the highest of the log levels 0 to 4: failures are raised, so they need not be logged


@dataclass(frozen=True)
class OnnxRuntime:
    """The CPU provider with all graph optimizations.

    threads: threads per call; 0 means one per physical core that the process may use (`default_threads`).
    spinning: let waiting threads spin inside a call, which is fastest. False leaves the cores to other threads of the
        program. Threads never spin after a call, because the next graph of the same sample has separate threads.
    fuse_qdq: False keeps Q/DQ pairs around float kernels, which simulates TensorRT's numerics.
    keeps_memory: keep the memory of activations for the next call. False allocates it at each call, as one block: a
        U-Net with 1.2 GB of activations then takes 1.2 GB instead of 1.7, and 0.5 s longer.
    """

    threads: int = 0
    spinning: bool = True
    fuse_qdq: bool = True
    keeps_memory: bool = True

    def __post_init__(self) -> None:
        check_threads(self.threads)

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """For each precision, the names of the bodies that this backend runs well, the best first.

        A body for ARM gives the same samples on x86, and one for x86 the same on ARM, but more slowly. x86 CPUs without
        VNNI run weights with limited sums of pairs faster than others.
        """
        int8 = tuple(body_name("int8", platform.name) for platform in rank_platforms(ONNXRUNTIME, this_cpu()))
        only_weights = {precision: (precision,) for precision in WEIGHTS_ONLY}
        return MappingProxyType({"float32": (body_name("float32"),), "int8": int8, **only_weights})

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        """Load a graph. Raises UserError if it cannot be loaded, or if this version computes it incorrectly on this
        machine. Each machine checks a graph once per version."""
        graph = find_graph(bundle, name)
        refuse_wrong_int8(bundle, name)
        opened = self.load_graph(bundle, graph, needs_wide_sums_of(bundle, name))
        refuse_wrong(bundle, graph, opened, f"onnxruntime {version()}", ANOTHER_VERSION)
        return opened

    def load_companion(self, bundle: Bundle, name: str) -> "Session":
        """Load a graph of the text encoder or the autoencoder, by its name. Raises UserError if it cannot be loaded."""
        refuse_wrong_int8(bundle, name)
        return self.load_graph(bundle, find_graph(bundle, name), needs_wide_sums_of(bundle, name))

    def load_graph(self, bundle: Bundle, graph: GraphEntry, wide_sums: bool = False) -> "Session":
        """Load any graph of a bundle. Raises UserError if its inputs and outputs differ from those in the manifest."""
        return self.open_checked(bundle, graph, bundle.graph(graph), wide_sums)

    def open_checked(self, bundle: Bundle, graph: GraphEntry, path: Path, wide_sums: bool = False) -> "Session":
        """Load a graph as `load_graph` does, from the path that `Bundle.graph` has returned for it."""
        home = bundle_home(bundle.path) if graph.data else None
        opened = self.open(path, wide_sums, home)
        check_ports(bundle, graph, opened.session.get_inputs, opened.session.get_outputs)
        return opened

    def load_run(self, file: Path, wide_sums: bool = False) -> tuple["Session", Mapping[str, str]]:
        """Load a file written by `fewstep bake`. Return its session and the metadata in it. `wide_sums`: see `open`.

        Raises UserError for a file with operations that only the CUDA provider implements.
        """
        from fewstep.runtime.backends.onnxruntime_cuda_form import has_contrib_norms  # seldom needed

        if has_contrib_norms(file):
            fix = "load it with backend=OnnxRuntimeCuda(), or bake it with --body float32"
            raise UserError(f"{file} has operations that only ONNX Runtime's CUDA provider runs", fix)
        opened = self.open(file, wide_sums, Home(file.parent, file, hashed=True))
        return opened, opened.session.get_modelmeta().custom_metadata_map

    def open_part(self, model: bytes, name: str, wide_sums: bool = False) -> "Session":
        """Load a part of a graph that is opened for a few calls: without the arena, so that all of its memory is free
        when its results are. A call of a large network takes as long (measured)."""
        onnxruntime = import_package("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[cpu]'")
        options = self._options(onnxruntime, False, False, wide_sums)
        return _open_session(onnxruntime, model, name, options)

    def open(self, graph: Path, wide_sums: bool = False, home: Home | None = None) -> "Session":
        """Load any graph from its file, which the caller has checked.

        home: the places of the files of its weights, which may be links.
        wide_sums: add 8-bit products in 32 bits on every CPU (`needs_wide_sums`).
        """
        onnxruntime = import_package("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[cpu]'")
        options = self._options(onnxruntime, self.keeps_memory, not self.keeps_memory, wide_sums)
        path = path_text(graph)
        weights = [] if home is None else _map_linked_weights(graph, home, options)
        opened = _open_session(onnxruntime, path, graph.name, options)
        del weights  # onnxruntime has copied them
        return opened

    def _options(self, onnxruntime: Any, arena: bool, memory_pattern: bool, wide_sums: bool) -> Any:
        """Return onnxruntime's SessionOptions. A memory pattern allocates all activations of a call as one block.
        With an arena as well, they would be held twice, and no time would be saved."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = engine_threads(self.threads)
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = FATAL_ONLY
        options.enable_cpu_mem_arena = arena
        options.enable_mem_pattern = memory_pattern
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "0" if self.fuse_qdq else "1")
        options.add_session_config_entry(WIDE_SUMS, "1" if wide_sums else "0")
        return options


def _open_session(onnxruntime: Any, model: str | bytes, name: str, options: Any) -> "Session":
    """Open a model, from its path or its content. Raises UserError if onnxruntime refuses it."""
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        outputs = tuple(output.name for output in session.get_outputs())
    except Exception as error:  # onnxruntime's exceptions share no base class except Exception
        raise UserError(
            f"onnxruntime {onnxruntime.__version__} cannot load {name}: {first_line(error)}",
            "pip install --upgrade onnxruntime, or copy the bundle again",
        ) from error
    return Session(name, session, outputs)


def _map_linked_weights(graph: Path, home: Home, options: Any) -> list[NDArray[np.uint8]]:
    """Pass the weight files of a graph that are links to onnxruntime, and return their content, which the caller keeps
    until the graph is loaded.

    onnxruntime 1.24 and 1.25 refuse all links, and later versions those to the store that the models of a hub's cache
    share. Earlier ones follow every link.
    """
    if not hasattr(options, "add_external_initializers_from_files_in_memory"):  # before 1.24
        return []
    try:
        files = sorted(external_data_files(graph))
    except ValueError:  # onnxruntime says what is wrong with the file
        return []
    names = [file for file in files if is_link(graph.parent / file)]
    contents: list[NDArray[np.uint8]] = []
    for name in names:
        with home.open(graph.parent / name) as file:
            contents.append(np.memmap(file, np.uint8, mode="r"))
    if names:
        options.add_external_initializers_from_files_in_memory(
            names, contents, [content.nbytes for content in contents]
        )
    return contents


def needs_wide_sums_of(bundle: Bundle, name: str) -> bool:
    """Return whether the products of a graph, by its name, must be added in 32 bits (`needs_wide_sums`)."""
    body = body_with_graph(bundle, name)
    return body is not None and needs_wide_sums(body.target, body.platform)


def version() -> str:
    """Return the version of onnxruntime."""
    return str(import_package("onnxruntime", "onnxruntime", "pip install 'fewstep[cpu]'").__version__)


def refuse_wrong_int8(bundle: Bundle, name: str) -> None:
    """Raise UserError for an int8 body if this version of onnxruntime multiplies integers incorrectly on this CPU."""
    body = body_with_graph(bundle, name)
    if body is None or body.precision != "int8":
        return
    numbers = tuple(int(part) for part in version().split(".")[:2] if part.isdigit())
    if numbers < RIGHT_WITH_AMX and "amx_int8" in this_cpu().int8_instructions:
        what = f"onnxruntime {version()} computes int8 products incorrectly on CPUs with AMX, such as this one"
        raise UserError(what, "pip install --upgrade 'onnxruntime>=1.25', or run float32 (--precision float32)")


@dataclass(frozen=True)
class Session:
    """A graph loaded in onnxruntime. It has no state other than the session, whose `run` may be called concurrently."""

    graph: str
    session: Any
    outputs: tuple[str, ...]
    takes_optional: bool = True  # whether optional inputs may be fed or left out

    def __call__(self, feeds: Arrays, options: Any = None) -> dict[str, NDArray[np.float32]]:
        """Run the graph. `options` are onnxruntime's RunOptions."""
        try:
            values = self.session.run(self.outputs, feeds, options)
        except Exception as error:
            raise call_error(self.graph, feeds, first_line(error)) from error
        return dict(zip(self.outputs, values, strict=True))
