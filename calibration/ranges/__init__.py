"""Ranges are taken from watched activations: histograms, methods that clip them, and the resulting table."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
