"""The runtime: runs a bundle with numpy, msgspec, safetensors and one inference engine.

import fewstep.runtime

with fewstep.runtime.load("bundle", precision="int8") as sampler:
    x = sampler.sample(plan="dpmpp_2m:8", seeds=[0, 1], condition={"class": [3, 5]}, guidance=2.0)
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fewstep.plans.errors import Cancelled, UserError
    from fewstep.plans.plan import Plan
    from fewstep.runtime.sampling.execute import Hold
    from fewstep.runtime.sampling.loading import load
    from fewstep.runtime.sampling.sampler import Sampler

# onnxruntime collects telemetry from its import on. Every package of fewstep imports this one before onnxruntime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["AllSteps", "Cancelled", "Hold", "Plan", "Sampler", "UserError", "load"]

_MODULES = {
    "AllSteps": "fewstep.plans.strength",
    "Cancelled": "fewstep.plans.errors",
    "UserError": "fewstep.plans.errors",
    "Plan": "fewstep.plans.plan",
    "Hold": "fewstep.runtime.sampling.execute",
    "load": "fewstep.runtime.sampling.loading",
    "Sampler": "fewstep.runtime.sampling.sampler",
}


def __getattr__(name: str) -> Any:
    """Import numpy and the other modules at their first use, since `fewstep --help` imports this package too."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
