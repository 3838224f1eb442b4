"""From a verified bundle to int8 bodies, engines and a report."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
