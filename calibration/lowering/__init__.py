"""Lowering rewrites the prepared graph to int8, for each target."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
