"""Ranges of observed activations: histograms, methods that choose ranges from them, and the tables in which ranges are
stored."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
