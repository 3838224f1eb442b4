"""Second moments along a plan: bitwise the same for any workers, and after an interruption."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration import second_moments
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.ranges.moments import Moments, draw_patches
from fewstep.calibration.ranges.observe import open_observed
from fewstep.calibration.second_moments import MomentsAndSamples, follow_first_trajectories
from fewstep.calibration.task import Task
from fewstep.graph.selection import select_int8_ops
from fewstep.measure.workers.job import Workers
from tests.calibration.test_calibrate import FIRST, contents, denoiser, task_of, write_bundle


def moments_of(task: Task, workers: Workers | None = None) -> Moments:
    return follow_first_trajectories(task, workers=workers).moments


@pytest.fixture
def task(bundle: Path) -> Task:
    return task_of(replace(FIRST, bundle=bundle, trajectories=6, guidance=2.0, threads=1))


def test_they_are_those_of_all_rows_along_the_plan(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "TRAJECTORIES", 4)
    (op,) = select_int8_ops(task.prepared)
    few = replace(task, seeds=task.seeds[:4])
    network = open_observed(task.prepared, (op.x,))
    rng = np.random.default_rng(0)
    every = [
        draw_patches(op, trajectory.tensors[op.x], (3, 3), rng, 10**6) for trajectory in few.run_trajectories(network)
    ]
    rows = np.concatenate(every).astype(np.float64)
    assert len(rows) == 4 * 3 * 2 * 64  # trajectories, steps, branches, positions: all that there are
    np.testing.assert_allclose(moments_of(task)["w1"][0], rows.T @ rows, rtol=1e-4, atol=1e-2)


def test_workers_have_the_same_bits(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    with ThreadPoolExecutor(2) as pool:
        spread = moments_of(task, workers=Workers(pool, 2))
    alone = moments_of(task)
    monkeypatch.setattr(second_moments, "POSITIONS", 100)
    assert not np.array_equal(moments_of(task)["w1"], alone["w1"])
    assert alone.keys() == spread.keys() == {"w1"} and np.array_equal(alone["w1"], spread["w1"])


def test_weights_are_rounded_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scales are unchanged."""
    options = replace(FIRST, bundle=write_bundle(tmp_path / "own", denoiser()), target=("cpu-x86",))
    own = calibrate(options).lowered["int8-cpu-x86"].graph.constants
    monkeypatch.setattr("fewstep.calibration.calibrate.follow_first_trajectories", lambda *_: MomentsAndSamples({}, ()))
    options = replace(options, bundle=write_bundle(tmp_path / "nearest", denoiser()))
    nearest = calibrate(options).lowered["int8-cpu-x86"].graph.constants
    assert np.array_equal(own["scale(w1)"], nearest["scale(w1)"])
    moved = np.abs(own["int8(w1)"].astype(int) - nearest["int8(w1)"])
    assert 0.05 < (moved > 0).mean() < 0.6 and moved.max() <= 2
    assert contents(tmp_path / "own") != contents(tmp_path / "nearest")
