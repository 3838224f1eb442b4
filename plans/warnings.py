"""Warnings about plans, each once in a process: robots and streams compile the same plan many times."""

import logging

LOG = logging.getLogger("fewstep")
_LOGGED: set[str] = set()


def warn_once(line: str) -> None:
    """Log a line as a warning of "fewstep", unless this process has logged it before."""
    if line not in _LOGGED:
        _LOGGED.add(line)
        LOG.warning("%s", line)
