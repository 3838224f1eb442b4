"""Work in many processes, with results that are bitwise identical to those of one process."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
