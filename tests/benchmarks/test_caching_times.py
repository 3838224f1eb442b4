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
    assert 20e6 < peaks["ddim:2"] <= peaks["ddim:2+every"]  # bytes: numpy and an engine alone take more


@pytest.mark.parametrize(
    ("plan", "refusal"),
    [
        ("ddim", "'ddim' is not SOLVER:STEPS, such as dpmpp_2m:20"),
        ("ddim:4@trailing", "is not SOLVER:STEPS"),
        ("ddim:1", "is not SOLVER:STEPS"),
        ("euclid:4", "euclid"),
    ],
)
def test_another_form_of_plan_and_an_unknown_solver_are_refused_before_any_run(
    plan: str, refusal: str, exported_light: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["caching_times", str(exported_light), "--plan", plan])
    with pytest.raises(SystemExit, match="2"):
        caching_times.main()
    assert refusal in capsys.readouterr().err


def test_a_bundle_without_a_light_network_is_refused(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["caching_times", str(tiny_bundle)])
    with pytest.raises(SystemExit, match="2"):
        caching_times.main()
    assert f"{tiny_bundle} has no light network; export with --cache" in capsys.readouterr().err
