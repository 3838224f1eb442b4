"""Judging: bodies along plans from the same seeds, their distance from float32, and their time in turns."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
