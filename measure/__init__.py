"""Measure bodies along plans: their distances from float32 on the same seeds, and their times in alternating turns."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
