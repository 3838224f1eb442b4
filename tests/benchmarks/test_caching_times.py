"""The times of plans with light steps, on a small bundle."""

from pathlib import Path

import pytest

from benchmarks import caching_times
from benchmarks.caching_times import equal_steps, measure_peaks, measure_times
from fewstep.runtime.sampling.loading import load


def test_equal_time_is_the_share_of_the_whole_run() -> None:
    assert equal_steps("ddim:20", {"ddim:20": 4.0, "ddim:20+every(linear=True)": 2.4}) == pytest.approx(12)


def test_evaluations_and_three_runs_take_turns(exported_light: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caching_times, "equal_steps", lambda plan, seconds: 3.4)
    times = measure_times(load(exported_light), "ddim:4", 2)
    assert list(times) == ["full", "light", "ddim:4", "ddim:4+every(linear=True)", "ddim:3"]
    assert min(times.values()) > 0


def test_memory_is_of_a_run_without_the_light_network_and_of_one_with_it(exported_light: Path) -> None:
    peaks = measure_peaks(load(exported_light))
    assert list(peaks) == ["ddim:2", "ddim:2+every"]
    assert 0 < peaks["ddim:2"] <= peaks["ddim:2+every"]
