"""Each benchmark starts by its own file: it finds what lies beside it without the paths of the tests."""

import subprocess
import sys

import pytest

from tests.benchmarks.conftest import BENCHMARKS

FOLDERS = ("", "fits/", "large/", "quantization/", "races/")
FILES = sorted(path for folder in FOLDERS for path in BENCHMARKS.glob(f"{folder}*.py"))
STARTED = [str(path.relative_to(BENCHMARKS)) for path in FILES if "argparse.ArgumentParser(" in path.read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("name", STARTED)
def test_a_benchmark_says_how_it_is_called(name: str) -> None:
    said = subprocess.run([sys.executable, str(BENCHMARKS / name), "--help"], capture_output=True, text=True)
    assert said.returncode == 0 and said.stdout.startswith("usage: "), said.stderr
