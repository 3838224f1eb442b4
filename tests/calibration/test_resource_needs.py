"""A calibration takes the time and the memory that it announced."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.ranges.observe import tensors_to_observe
from fewstep.calibration.ranges.row_observer import row_bytes
from fewstep.calibration.resource_needs import ALONE, LOWERING_PEAK, WORKER, estimate_needs
from fewstep.graph.extents import Extent
from fewstep.graph.files.weights import weight_bytes
from fewstep.graph.graph import Graph, Value
from fewstep.measure.rollouts.trajectories import BATCH
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Body
from tests.bundles import change_bundle, content_of, entry
from tests.calibration.test_calibrate import FIRST, denoiser, task_of, write_bundle
from tests.free_size_bundle import HEIGHT, WIDTH


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


def free_sizes(bundle: Path) -> Path:
    """Let x of a bundle of `denoiser`, 8 x 8, have up to 64 x 64."""

    def free(value: Value) -> Value:
        return value if value.name == "row" else replace(value, shape=("batch", 1, "height", "width"))

    graph = denoiser()
    extents = {each.name: Extent(8, each.low, 64, each.multiple) for each in (HEIGHT, WIDTH)}
    graph = replace(
        graph, inputs=tuple(map(free, graph.inputs)), outputs=tuple(map(free, graph.outputs)), extents=extents
    )
    sizes = tuple(msgspec.structs.replace(each, high=64) for each in (HEIGHT, WIDTH))
    bodies = {"float32": Body.from_graph(entry("graphs/free.onnx", graph), "float32", "portable")}
    return change_bundle(bundle, {"graphs/free.onnx": content_of(graph)}, bodies=bodies, sizes=sizes)


@pytest.mark.parametrize(("size", "elements"), [((), 64), (("8x8", "32x16"), 512), (("32x16", "8x8"), 512)])
def test_the_largest_size_of_x_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: tuple[str, ...], elements: int
) -> None:
    usual = write_bundle(tmp_path / "usual", denoiser())
    bundle = free_sizes(write_bundle(tmp_path / "bundle", denoiser()))
    task, fixed = (task_of(replace(FIRST, bundle=each, size=sizes)) for each, sizes in ((bundle, size), (usual, ())))
    assert task.elements == elements
    row = row_bytes(task.prepared, task.tensors)
    assert row == row_bytes(fixed.prepared, fixed.tensors) > 0  # free sizes count as the default ones
    memory = BATCH * len(task.plan.steps[0].branches) * row * elements // 64
    monkeypatch.setattr("fewstep.calibration.task.MEMORY", memory)
    assert not task.is_large
    monkeypatch.setattr("fewstep.calibration.task.MEMORY", memory - 1)
    assert task.is_large


def test_a_full_disk_is_reported_before_anything_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", wide())

    def no_room(size: int) -> None:
        raise UserError(f"{size} more", "free space")

    monkeypatch.setattr("fewstep.graph.files.commit.Writer.reserve", lambda _, size: no_room(size))
    monkeypatch.setattr("fewstep.calibration.calibrate.count_activations", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(UserError, match=r"\d{6} more"):
        calibrate(replace(FIRST, bundle=bundle, target=("cpu-x86",)))
