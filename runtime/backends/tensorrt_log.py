"""TensorRT's messages in Python's log."""

import functools
import logging
from collections import deque
from typing import Any

LOG = logging.getLogger("fewstep")


@functools.cache
def logger(trt: Any) -> Any:
    """One logger for the process: TensorRT keeps the first it is given. Errors are kept, since they are raised."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=1)

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                self.errors.append(message.strip().splitlines()[0] if message.strip() else "")
            level = logging.INFO if severity == trt.ILogger.Severity.WARNING else logging.DEBUG
            LOG.log(level, "%s: %s", trt.__name__, message)

    return Logger()


def last_error(trt: Any) -> str:
    """The last error that it logged, in a line: its functions return None or False."""
    errors = logger(trt).errors
    return errors[-1] if errors else "it says nothing"
