"""Lets the tests of this folder import the builders of tests/calibration, and what benchmarks import, by name."""

import sys
from pathlib import Path

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path[:0] = [str(Path(__file__).parents[1] / "calibration"), str(BENCHMARKS), str(BENCHMARKS / "quantization")]
