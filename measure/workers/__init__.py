"""Run work in many processes, with results that are bitwise identical to those of a single process."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
