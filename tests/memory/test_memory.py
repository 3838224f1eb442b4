"""The memory of exporting: benchmarks/memory.py at a tenth of its size, where torch itself takes most of it."""

from pathlib import Path

import pytest

from benchmarks import memory

MB = 10**6
ALONE = 650 * MB  # of torch, its exporter and onnxruntime: some 500 measured


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_weights_are_in_memory_once(tmp_path: Path) -> None:
    """300 MB, more than stay in a graph: a second copy of them would miss the bar by 200 MB."""
    found = memory.measure(300 * MB, tmp_path)
    assert 280 * MB < found.weights < found.bundle < found.weights + 1 * MB
    assert found.weights < found.cost.peak < found.weights + ALONE
