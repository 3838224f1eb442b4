"""Backends by the names that command lines give them."""

from collections.abc import Callable

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Backend
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda
from fewstep.runtime.backends.openvino import OpenVino
from fewstep.runtime.backends.qnn import Qnn
from fewstep.runtime.backends.tensorrt import TensorRt

NAMED: dict[str, Callable[[int], Backend]] = {
    "onnxruntime": lambda threads: OnnxRuntime(threads=threads),
    "onnxruntime-cuda": lambda threads: OnnxRuntimeCuda(),
    "openvino": lambda threads: OpenVino(threads=threads),
    "openvino-bf16": lambda threads: OpenVino(threads=threads, float_type="bf16"),
    "qnn": lambda threads: Qnn(),
    "tensorrt": lambda threads: TensorRt("tensorrt"),
    "tensorrt-rtx": lambda threads: TensorRt("tensorrt-rtx"),
}


def named(name: str, threads: int = 0) -> Backend:
    """The backend of that name, with so many threads of a call where it computes on the CPU (0: one per core).

    Nothing of it is imported before it loads a graph.
    """
    if name not in NAMED:
        raise UserError(f"unknown backend {name!r}", f"choose one of {', '.join(NAMED)}")
    return NAMED[name](threads)
