"""Second moments along a plan: the same bits whoever follows the trajectories, and after an interruption."""

import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration import checkpoint, second_moments
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.checkpoint import Checkpoint
from fewstep.calibration.opening import open_task
from fewstep.calibration.ranges.moments import Moments, drawn_patches
from fewstep.calibration.ranges.observe import open_watched
from fewstep.calibration.second_moments import second_moments as moments_of
from fewstep.calibration.task import Task
from fewstep.graph.selection import selected_ops
from fewstep.measure.workers.in_order import Workers
from fewstep.runtime.machine import cache
from tests.calibration.test_calibrate import FIRST, contents, denoiser, write_bundle


@pytest.fixture
def task(tmp_path: Path) -> Task:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    return open_task(replace(FIRST, bundle=bundle, trajectories=6, guidance=2.0, threads=1))


def test_they_are_those_of_all_rows_along_the_plan(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second_moments, "TRAJECTORIES", 4)
    (op,) = selected_ops(task.prepared)
    few = replace(task, seeds=task.seeds[:4])
    network = open_watched(task.prepared, (op.x,))
    rng = np.random.default_rng(0)
    every = [drawn_patches(op, each.tensors[op.x], (3, 3), rng, 10**6) for each in few.evaluations(network)]
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


def test_they_go_on_where_they_were_interrupted(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    kept, followed = Checkpoint("0" * 32), []

    def dying(topic: str, done: int, total: int) -> None:
        if done == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        moments_of(task, dying, kept)
    whole = moments_of(task, lambda _, done, total: followed.append((done, total)), kept)
    assert followed == [(4, 6), (5, 6), (6, 6)]  # the fourth was not kept yet
    assert np.array_equal(whole["w1"], moments_of(task)["w1"])
    assert np.array_equal(whole["w1"], moments_of(task, checkpoint=kept)["w1"])  # all of them were kept
    kept.drop()
    assert not list((cache.folder() / "calibration").glob("*"))


def test_weights_are_rounded_by_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same scales."""
    options = replace(FIRST, bundle=write_bundle(tmp_path / "own", denoiser()), target=("cpu-x86",))
    own = calibrate(options).lowered["int8-cpu-x86"].graph.constants
    monkeypatch.setattr("fewstep.calibration.calibrate.second_moments", lambda *_: {})
    options = replace(options, bundle=write_bundle(tmp_path / "nearest", denoiser()))
    nearest = calibrate(options).lowered["int8-cpu-x86"].graph.constants
    assert np.array_equal(own["scale(w1)"], nearest["scale(w1)"])
    moved = np.abs(own["int8(w1)"].astype(int) - nearest["int8(w1)"])
    assert 0.05 < (moved > 0).mean() < 0.6 and moved.max() <= 2
    assert contents(tmp_path / "own") != contents(tmp_path / "nearest")


def test_one_sum_is_in_memory_while_they_are_written(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    live: list[weakref.ref[np.ndarray]] = []

    def each(*_: object) -> Iterator[Moments]:
        for _ in range(2):
            sums = {"w1": np.ones((1, 2, 2), np.float32)}
            live.append(weakref.ref(sums["w1"]))
            yield sums

    class Written(Checkpoint):
        def save_moments(self, moments: Moments, done: int, is_last: bool = False) -> None:
            assert not is_last or [own() is None for own in live] == [False, True]

    monkeypatch.setattr(second_moments, "done_along", each)
    moments_of(replace(task, seeds=task.seeds[:2]), checkpoint=Written("0" * 32))
