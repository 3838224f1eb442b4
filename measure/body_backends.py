"""The backend that computes each body of a bundle here: as it is deployed, or with its numerics simulated.

The platform of a body names its backend. Where this machine has that one, it runs the body. onnxruntime computes all
other bodies with their Q/DQ pairs kept: the pairs round to 8 bits, the rest is float32, or rounded to bfloat16.
"""

from functools import cache

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Body
from fewstep.runtime.bundle.platforms import (
    ONNXRUNTIME,
    OPENVINO,
    OPENVINO_BF16,
    PORTABLE,
    Platform,
    platform_of,
)

CHECKED_BACKENDS = (OPENVINO.backend, OPENVINO_BF16.backend)  # they are compared with onnxruntime in float32
SIMULATION = "onnxruntime: 8-bit rounding simulated, that of float16 not"  # of a body whose backend is not here


def is_run_by_onnxruntime(body: Body) -> bool:
    """True for bodies that onnxruntime runs as they are deployed, float32 and float16 too."""
    is_float = body.target == PORTABLE and body.precision != "bfloat16"
    platform = platform_of(body.target, body.platform)
    return is_float or (platform is not None and platform.backend == ONNXRUNTIME)


def is_simulated(body: Body) -> bool:
    """True for bodies that no backend here runs as they are deployed."""
    return not is_run_by_onnxruntime(body) and _platform_here(body) is None


def backend_of(body: Body) -> str:
    """The name of the backend that computes a body here."""
    platform = _platform_here(body)
    return ONNXRUNTIME if platform is None else platform.backend


def inference_engine_of(body: Body) -> str:
    """The inference engine that computes a body here, in words, or `SIMULATION`."""
    platform = _platform_here(body)
    if platform is not None:
        return platform.label
    return SIMULATION if is_simulated(body) else ONNXRUNTIME


def _platform_here(body: Body) -> Platform | None:
    """The platform of a body whose backend is on this machine. A plugin's own backend is taken to be."""
    platform = platform_of(body.target, body.platform)
    if platform is None or platform.simulated or platform.backend in CHECKED_BACKENDS and not _has_openvino():
        return None
    return platform


@cache
def _has_openvino() -> bool:
    """True if OpenVINO can be imported. It is tried once: Python searches again for a module that is missing."""
    from fewstep.runtime.backends.openvino import import_openvino

    try:
        import_openvino()
    except UserError:
        return False
    return True
