"""Samples of a bundle's bodies along a plan: their seeds, their conditions, and their distance from float32."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
