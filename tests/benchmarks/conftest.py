"""Lets the tests of this folder import the builders of tests/calibration, and what benchmarks import, by name."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(Path(__file__).parents[1] / "calibration"), str(BENCHMARKS), str(BENCHMARKS / "quantization")]


@pytest.fixture(autouse=True)
def level_of_logs() -> Iterator[None]:
    """A benchmark's `main` silences the process that it is the whole of; the tests after it want their warnings."""
    level = logging.getLogger().level
    yield
    logging.getLogger().setLevel(level)
