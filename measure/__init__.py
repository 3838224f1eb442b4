"""Measurement of bodies along plans: distances from float32 on the same seeds, and times of alternating turns."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
