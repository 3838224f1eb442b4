"""Backends by their names on command lines. A backend's module is imported when its name is first used."""

from collections.abc import Callable
from functools import partial
from typing import Literal

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Backend
from fewstep.runtime.backends.onnxruntime import OnnxRuntime


def _cuda(threads: int) -> Backend:
    from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda

    return OnnxRuntimeCuda()


def _rows(threads: int) -> Backend:
    from fewstep.runtime.backends.onnxruntime_rows import OnnxRuntimeRows

    return OnnxRuntimeRows(threads=threads)


def _openvino(float_type: Literal["f32", "bf16"], threads: int) -> Backend:
    from fewstep.runtime.backends.openvino import OpenVino

    return OpenVino(threads=threads, float_type=float_type)


def _qnn(threads: int) -> Backend:
    from fewstep.runtime.backends.qnn import Qnn

    return Qnn()


def _tensorrt(package: Literal["tensorrt", "tensorrt-rtx"], threads: int) -> Backend:
    from fewstep.runtime.backends.tensorrt import TensorRt

    return TensorRt(package)


NAMED: dict[str, Callable[[int], Backend]] = {
    "onnxruntime": lambda threads: OnnxRuntime(threads=threads),
    "onnxruntime-rows": _rows,
    "onnxruntime-cuda": _cuda,
    "openvino": partial(_openvino, "f32"),
    "openvino-bf16": partial(_openvino, "bf16"),
    "qnn": _qnn,
    "tensorrt": partial(_tensorrt, "tensorrt"),
    "tensorrt-rtx": partial(_tensorrt, "tensorrt-rtx"),
}

ON_CPU = ("onnxruntime", "onnxruntime-rows", "openvino", "openvino-bf16")  # backends that compute on no other device


def create_backend(name: str, threads: int = 0) -> Backend:
    """Return the backend of that name. On the CPU it uses `threads` threads per call (0: one per core).

    An engine's library is imported only when the backend loads a graph.
    """
    if name not in NAMED:
        raise UserError(f"unknown backend {name!r}", f"choose one of {', '.join(NAMED)}")
    return NAMED[name](threads)
