"""Forward TensorRT's messages to Python's log."""

import functools
import logging
from collections import deque
from typing import Any

LOG = logging.getLogger("fewstep")


@functools.cache
def logger(trt: Any) -> Any:
    """Return the logger of this process, which also stores the last error, for messages. There is only one, since
    TensorRT keeps using the first logger that it gets."""

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
    """Return the last error that TensorRT logged, as one line. Its functions only return None or False."""
    errors = logger(trt).errors
    return errors[-1] if errors else "it gives no reason"
