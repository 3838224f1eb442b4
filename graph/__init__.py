"""Read, rewrite and write ONNX, without torch. No other package does."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
