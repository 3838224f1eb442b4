"""The work of a calibration besides evaluations, measured on the first of them."""

from itertools import pairwise
from pathlib import Path

import pytest

from fewstep.calibration import cost, measured_work
from fewstep.calibration.measured_work import MeasuredWork, measure_work
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.task import Task
from tests.calibration.test_calibrate import denoiser, task_of, write_bundle


@pytest.fixture
def task(tmp_path: Path) -> Task:
    return task_of(CalibrateOptions(write_bundle(tmp_path / "bundle", denoiser()), target=("cpu-x86",), guidance=1.0))


def test_the_second_evaluation_is_timed(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_work, "_count", lambda task: iter((0.0, 9.0, 9.5)))
    monkeypatch.setattr(measured_work, "_add_moments", lambda task: iter((0.0, 9.0, 9.25)))
    monkeypatch.setattr(measured_work, "_time_rounding", lambda task: 4.0)
    assert measure_work(task, 0.125) == MeasuredWork(counting=0.375, moments=0.125, rounding=4.0)


def test_two_evaluations_of_one_trajectory_are_recorded(task: Task) -> None:
    for recorded in (measured_work._count, measured_work._add_moments):
        times = [*recorded(task)]
        assert len(times) == 3 and all(end > before for before, end in pairwise(times))
    assert measured_work._time_rounding(task) > 0.0


@pytest.mark.parametrize(("seconds", "recording"), [(1e-9, None), (1.0, 8 * (64 * 0.5 + 16 * 0.25) + 2.0)])
def test_long_work_counts_what_was_measured(
    task: Task, monkeypatch: pytest.MonkeyPatch, seconds: float, recording: float | None
) -> None:
    """Along 64 trajectories of 8 steps, of which 16 round the weights of one body."""
    monkeypatch.setattr(cost, "_evaluation_seconds", lambda *_: seconds)
    monkeypatch.setattr(measured_work, "measure_work", lambda *_: MeasuredWork(0.5, 0.25, 2.0))
    found = cost.estimate_cost([task])
    assert found.recording == recording
    assert found.estimate.seconds == pytest.approx(found.estimate.evaluations * seconds + (recording or 0.0))
