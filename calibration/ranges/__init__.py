"""Ranges of observed activations: histograms, methods that choose ranges from them, and the resulting table."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
