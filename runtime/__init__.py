"""The runtime runs a bundle with numpy, msgspec, safetensors and one inference engine.

import fewstep.runtime

with fewstep.runtime.load("bundle", precision="int8") as sampler:
    x = sampler.sample(plan="dpmpp_2m:8", seeds=[0, 1], condition={"class": [3, 5]}, guidance=2.0)
"""

import os

from fewstep.plans.errors import Cancelled, UserError
from fewstep.plans.plan import Plan
from fewstep.runtime.execute import Hold
from fewstep.runtime.loading import load
from fewstep.runtime.sampler import Sampler

# onnxruntime records its use from its import on. Every package of fewstep imports this one before onnxruntime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = ["Cancelled", "Hold", "Plan", "Sampler", "UserError", "load"]
