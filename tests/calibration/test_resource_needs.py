"""A calibration takes the time and the memory that it announced."""

from dataclasses import replace
from pathlib import Path

import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.ranges.observe import tensors_to_observe
from fewstep.calibration.ranges.row_observer import row_bytes
from fewstep.calibration.resource_needs import ALONE, LOWERING_PEAK, WORKER, estimate_needs
from fewstep.graph.files.weights import weight_bytes
from fewstep.graph.graph import Graph
from fewstep.plans.errors import UserError
from tests.calibration.test_calibrate import FIRST, denoiser, task_of, write_bundle


def wide() -> Graph:
    """The denoiser with many channels: its weights take more memory than its nodes."""
    return denoiser(width=256)


@pytest.mark.parametrize("target", ["cpu-x86", "tensorrt"])
def test_disk_is_what_the_bodies_take(tmp_path: Path, target: str) -> None:
    bundle = write_bundle(tmp_path / "bundle", wide())
    before = {path for path in bundle.rglob("*") if path.is_file()}
    options = replace(FIRST, bundle=bundle, target=(target,))
    stated = estimate_needs(task_of(options))
    calibrate(options)
    made = [path for path in bundle.rglob("*") if path.is_file() and path not in before]
    assert len(made) == stated.files
    assert 0.9 < sum(path.stat().st_size for path in made if path.suffix == ".onnx") / stated.disk < 1.1


def test_each_worker_adds_its_weights(tmp_path: Path) -> None:
    task = task_of(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", wide())))
    alone, three = estimate_needs(task).memory, estimate_needs(task, workers=3).memory
    weights = weight_bytes(task.prepared)
    assert alone > LOWERING_PEAK * weights + ALONE
    assert (three - alone) / 3 > WORKER * weights + ALONE


def test_large_rows_are_held_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones wait for two batches of 4 guided samples."""
    monkeypatch.setattr("fewstep.calibration.resource_needs.BATCH", 4)
    task = task_of(replace(FIRST, bundle=write_bundle(tmp_path / "bundle", wide()), guidance=2.0))
    row = row_bytes(task.prepared, tensors_to_observe(task.prepared))
    together = estimate_needs(task).memory
    monkeypatch.setattr("fewstep.calibration.ranges.row_observer.LARGE", 0)
    assert together - estimate_needs(task).memory == (2 * 4 * 2 - 1) * row > 0


def test_a_full_disk_is_reported_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", wide())

    def no_room(size: int) -> None:
        raise UserError(f"{size} more", "free space")

    monkeypatch.setattr("fewstep.graph.files.commit.Writer.reserve", lambda _, size: no_room(size))
    monkeypatch.setattr("fewstep.calibration.calibrate.count_activations", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(UserError, match=r"\d{6} more"):
        calibrate(replace(FIRST, bundle=bundle, target=("cpu-x86",)))
