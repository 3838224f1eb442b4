"""Calibration measures ranges along a deployed plan and lowers the verified graphs of a bundle to int8."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
