"""The bars of benchmarks/footprint.py that do not depend on the load of the machine."""

import runpy
from pathlib import Path
from typing import Any

import pytest

from fewstep.models import ready


@pytest.fixture(scope="module")
def footprint() -> dict[str, Any]:
    benchmarks = Path(__file__).parents[2] / "benchmarks"
    with pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(benchmarks)  # as where it runs as a script
        return runpy.run_path(str(benchmarks / "footprint.py"))


def test_what_is_installed_is_small(footprint: dict[str, Any]) -> None:
    assert 0.5e6 < footprint["bytes_of_installation"]() < 10e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_memory_stays_under_its_bar(footprint: dict[str, Any]) -> None:
    bundle = ready.fashion_mnist()
    seconds, peak = footprint["first_sample"](bundle, processes=1)
    assert 5.5e6 < footprint["weight_bytes"](bundle) < 6e6
    assert seconds > 0 and peak < 1.5 * footprint["weight_bytes"](bundle) + 120e6


def test_a_missed_bar_is_said(footprint: dict[str, Any]) -> None:
    figure = footprint["Bar"]("import", 41.0, 40.0, "ms")
    assert not figure.holds and str(figure).endswith("MISSED")
