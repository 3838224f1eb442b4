"""Work that is done by many processes, on this machine or on others, with bitwise the results of one."""

import fewstep.runtime  # noqa: F401  before onnxruntime, whose telemetry it turns off
