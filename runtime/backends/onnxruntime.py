"""ONNX Runtime on the CPU."""

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError, first_line
from fewstep.runtime.backends import Arrays, LoadedGraph, find_graph
from fewstep.runtime.backends.checks import call_error, check_threads, import_package, path_text
from fewstep.runtime.backends.port_checks import check_ports
from fewstep.runtime.bundle.manifest import GraphEntry
from fewstep.runtime.bundle.platforms import ONNXRUNTIME, body_name, cpu_kind, rank_platforms
from fewstep.runtime.bundle.reading import Bundle

FATAL_ONLY = 4  # the highest of the log levels 0 to 4: failures are raised, so they need not be logged


@dataclass(frozen=True)
class OnnxRuntime:
    """The CPU provider with all graph optimizations.

    threads: threads per call; 0 means one per physical core.
    spinning: let waiting threads spin inside a call, which is fastest. False leaves the cores to other threads of the
        program. Threads never spin after a call, because the next graph of the same sample has separate threads.
    fuse_qdq: False keeps Q/DQ pairs around float kernels, which simulates TensorRT's numerics.
    """

    threads: int = 0
    spinning: bool = True
    fuse_qdq: bool = True

    def __post_init__(self) -> None:
        check_threads(self.threads)

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        """For each precision, the names of the bodies that this backend runs well, the best first.

        A body for ARM gives the same samples on x86, and one for x86 the same on ARM, but more slowly. Without VNNI,
        sums may saturate with 8-bit weights, but not with 7-bit ones.
        """
        from fewstep.runtime.machine.cpu import EXACT, this_cpu  # not needed if the caller names the body

        cpu = cpu_kind(platform.machine())
        saturating = cpu == "x86" and EXACT.isdisjoint(this_cpu().int8_instructions)
        int8 = tuple(body_name("int8", each.name) for each in rank_platforms(ONNXRUNTIME, cpu, saturating))
        return MappingProxyType({"float32": (body_name("float32"),), "int8": int8})

    def load(self, bundle: Bundle, name: str) -> LoadedGraph:
        return self.load_graph(bundle, find_graph(bundle, name))

    def load_graph(self, bundle: Bundle, graph: GraphEntry) -> "Session":
        """Load any graph of a bundle. Raises UserError if its inputs and outputs differ from those in the manifest."""
        opened = self.open(bundle.graph(graph), has_own_weights=bool(graph.data))
        check_ports(bundle, graph, opened.session.get_inputs, opened.session.get_outputs)
        return opened

    def load_run(self, file: Path) -> tuple["Session", Mapping[str, str]]:
        """Load a file written by `fewstep bake`. Return its session and the metadata in it.

        Raises UserError for a file with operations that only the CUDA provider implements.
        """
        from fewstep.runtime.backends.onnxruntime_cuda_form import has_contrib_norms  # seldom needed

        if has_contrib_norms(file):
            fix = "load it with backend=OnnxRuntimeCuda(), or bake it with --body float32"
            raise UserError(f"{file} has operations that only ONNX Runtime's CUDA provider runs", fix)
        opened = self.open(file)
        return opened, opened.session.get_modelmeta().custom_metadata_map

    def open(self, graph: Path, has_own_weights: bool = False) -> "Session":
        """Load any graph from its file, which the caller has checked.

        has_own_weights: whether its weights are in separate files, as for large graphs.
        """
        onnxruntime = import_package("onnxruntime", "no inference engine: onnxruntime", "pip install 'fewstep[cpu]'")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = FATAL_ONLY
        options.enable_mem_pattern = not has_own_weights  # it would allocate all activations again outside the arena
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        options.add_session_config_entry("session.force_spinning_stop", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "0" if self.fuse_qdq else "1")
        path = path_text(graph)
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
            outputs = tuple(output.name for output in session.get_outputs())
        except Exception as error:  # onnxruntime's exceptions share no base class except Exception
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} cannot load {graph.name}: {first_line(error)}",
                "pip install --upgrade onnxruntime, or copy the bundle again",
            ) from error
        return Session(graph.name, session, outputs)


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
