"""What exporting costs in memory: benchmarks/memory.py at a tenth of its size, where little but torch itself counts."""

import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MB = 10**6
ALONE = 650 * MB  # of torch, its exporter and onnxruntime: some 500 measured


@pytest.fixture(scope="module")
def memory() -> dict[str, Any]:
    return runpy.run_path(str(Path(__file__).parent.parent / "benchmarks/memory.py"), run_name="memory")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_weights_are_in_memory_once(memory: dict[str, Any], tmp_path: Path) -> None:
    """300 MB, more than stay in a graph: a second copy of them would miss the bar by 200 MB."""
    found = memory["measure"](300 * MB, tmp_path)
    assert 280 * MB < found.weights < found.bundle < found.weights + 1 * MB
    assert found.weights < found.peak.own <= found.peak.resident < found.weights + ALONE


@pytest.mark.slow
def test_an_export_that_fails_is_no_measurement(memory: dict[str, Any]) -> None:
    with pytest.raises(RuntimeError, match="exit code 3"):
        memory["watch"](subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]))
