"""stream_cost.py: all of it on a tiny bundle; the figures of time are not for a test to judge."""

from pathlib import Path

import pytest

import fewstep.runtime
from benchmarks.claims import stream_cost


@pytest.mark.slow
def test_a_stream_is_measured(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_cost, "FRAMES", 20)
    monkeypatch.setattr(stream_cost, "RUNS", 1)
    *times, still, blocks = stream_cost.measure(fewstep.runtime.load(tiny_bundle), (1, 4, 4), 200)
    assert len(times) == len(stream_cost.WAYS) and all(bar.found > 0 for bar in times)
    assert still.found == pytest.approx(100 / 11, abs=0.5) and still.holds  # of eleven frames one is processed
    assert blocks.holds
