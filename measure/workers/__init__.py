"""Work that is done by many processes, with bitwise the results of one."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
