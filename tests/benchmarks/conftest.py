"""Restore the log level that a benchmark changes."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def level_of_logs() -> Iterator[None]:
    """A benchmark's `main` silences logs for its whole process. Later tests expect their warnings."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
