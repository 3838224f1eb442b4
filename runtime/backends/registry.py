"""Backends by their names on command lines. A backend's module is imported when its name is first used."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Literal

from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Backend, CompanionEngine
from fewstep.runtime.backends.onnxruntime import OnnxRuntime

if TYPE_CHECKING:
    from fewstep.runtime.backends.openvino import OpenVino


def _cuda(threads: int) -> Backend:
    from fewstep.runtime.backends.onnxruntime_cuda import OnnxRuntimeCuda

    return OnnxRuntimeCuda()


def _rows(threads: int) -> Backend:
    from fewstep.runtime.backends.onnxruntime_rows import OnnxRuntimeRows

    return OnnxRuntimeRows(threads=threads)


def _openvino(float_type: Literal["f32", "bf16"], threads: int) -> "OpenVino":
    from fewstep.runtime.backends.openvino import OpenVino

    return OpenVino(threads=threads, float_type=float_type)


def _qnn(threads: int) -> Backend:
    from fewstep.runtime.backends.qnn import Qnn

    return Qnn()


def _tensorrt(package: Literal["tensorrt", "tensorrt-rtx"], threads: int) -> Backend:
    from fewstep.runtime.backends.tensorrt import TensorRt

    return TensorRt(package)


OPENVINO: dict[str, Callable[[int], "OpenVino"]] = {
    "openvino": partial(_openvino, "f32"),
    "openvino-bf16": partial(_openvino, "bf16"),
}

NAMED: dict[str, Callable[[int], Backend]] = {
    "onnxruntime": lambda threads: OnnxRuntime(threads=threads),
    "onnxruntime-rows": _rows,
    "onnxruntime-cuda": _cuda,
    **OPENVINO,
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


def companion_engine(name: str, threads: int = 0) -> CompanionEngine | None:
    """Return the engine that runs the text encoder and the autoencoder next to the backend of that name: the same one,
    or None for ONNX Runtime."""
    return OPENVINO[name](threads) if name in OPENVINO else None
