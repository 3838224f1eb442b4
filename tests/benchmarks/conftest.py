"""Keeps what a benchmark does to logs to itself."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def level_of_logs() -> Iterator[None]:
    """A benchmark's `main` silences the process that it is the whole of; the tests after it want their warnings."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
