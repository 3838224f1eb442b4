"""The backend that computes each body of a bundle on this machine: as deployed, or with its numerics simulated.

The platform of a body names its backend. If this machine has that backend, the backend runs the body. Otherwise
onnxruntime runs the body without fusing its Q/DQ pairs: the pairs round values to 8 bits, and everything else is
computed in float32, or rounded to bfloat16.
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

CHECKED_BACKENDS = (OPENVINO.backend, OPENVINO_BF16.backend)  # backends that are compared with onnxruntime in float32
SIMULATION = "onnxruntime: 8-bit rounding simulated, that of float16 not"  # for a body whose backend is not installed


def is_run_by_onnxruntime(body: Body) -> bool:
    """Return whether onnxruntime on the CPU runs the body as deployed. This is also true for float32 and float16
    bodies."""
    is_float = body.target == PORTABLE and body.precision != "bfloat16"
    platform = platform_of(body.target, body.platform)
    return is_float or (platform is not None and platform.backend == ONNXRUNTIME)


def is_simulated(body: Body) -> bool:
    """Return whether the body has to be simulated here, because no backend on this machine runs it as deployed."""
    return not is_run_by_onnxruntime(body) and _platform_here(body) is None


def backend_of(body: Body) -> str:
    """Return the name of the backend that computes a body on this machine."""
    platform = _platform_here(body)
    return ONNXRUNTIME if platform is None else platform.backend


def inference_engine_of(body: Body) -> str:
    """Return the display name of the inference engine that runs a body on this machine, or `SIMULATION`."""
    platform = _platform_here(body)
    if platform is not None:
        return platform.label
    return SIMULATION if is_simulated(body) else ONNXRUNTIME


def _platform_here(body: Body) -> Platform | None:
    """Return the platform of a body if this machine has the backend to run it. Otherwise return None. The backend of a
    plugin's platform is assumed to be installed."""
    platform = platform_of(body.target, body.platform)
    if platform is None or platform.simulated or platform.backend in CHECKED_BACKENDS and not _has_openvino():
        return None
    return platform


@cache
def _has_openvino() -> bool:
    """Return whether OpenVINO can be imported. Cached, since Python searches again for a missing module."""
    from fewstep.runtime.backends.openvino import import_openvino

    try:
        import_openvino()
    except UserError:
        return False
    return True
