"""All code that reads or writes ONNX is here, without torch."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
