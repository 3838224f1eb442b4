"""ONNX Runtime on the CPU."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.backends import Arrays, Network
from fewstep.runtime.errors import UserError

BODIES: Mapping[str, tuple[str, ...]] = MappingProxyType({"float32": ("float32",), "int8": ("int8-cpu-x86",)})
FATAL_ONLY = 4  # of the log levels 0 (verbose) to 4: what fails is raised as well, and told once


@dataclass(frozen=True)
class OnnxRuntime:
    """The CPU provider, all graph optimizations on.

    threads: threads of one call; 0 means one per physical core.
    spinning: waiting threads spin, which is fastest; False leaves the cores to the other threads of a host program.
    fuse_qdq: False keeps Q/DQ pairs in float around float kernels: that is how TensorRT's numerics are simulated.
    """

    threads: int = 0
    spinning: bool = True
    fuse_qdq: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.threads, Integral):
            raise UserError(f"threads {self.threads!r} is no whole number", "give threads=2, or 0 for one per core")
        cores = os.cpu_count() or 1
        if not 0 <= self.threads <= cores:  # spinning threads that wait for each other's core take minutes a call
            raise UserError(f"{self.threads} threads on {cores} cores", f"give 1 to {cores}, or 0 for one per core")

    @property
    def bodies(self) -> Mapping[str, tuple[str, ...]]:
        return BODIES

    def open(self, graph: Path) -> Network:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError(
                f"no inference engine: onnxruntime cannot be imported ({error})", "pip install 'fewstep[cpu]'"
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = FATAL_ONLY
        options.add_session_config_entry("session.intra_op.allow_spinning", "1" if self.spinning else "0")
        options.add_session_config_entry("session.disable_quant_qdq", "0" if self.fuse_qdq else "1")
        try:
            session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions share no base class but Exception
            raise UserError(
                f"onnxruntime {onnxruntime.__version__} cannot load {graph.name}: {_first_line(error)}",
                "pip install --upgrade onnxruntime, or copy the bundle again",
            ) from error
        return _Session(graph.name, session, tuple(output.name for output in session.get_outputs()))


@dataclass(frozen=True)
class _Session:
    """`InferenceSession.run` may be called concurrently; nothing else here has state."""

    graph: str
    session: Any
    outputs: tuple[str, ...]

    def __call__(self, feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        try:
            values = self.session.run(self.outputs, feeds)
        except Exception as error:
            shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in feeds.items())
            raise UserError(
                f"{self.graph} failed on inputs {shapes}: {_first_line(error)}", "check their shapes and types"
            ) from error
        return dict(zip(self.outputs, values, strict=True))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
