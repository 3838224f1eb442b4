"""Everything that reads or writes ONNX. No torch."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
