"""An interrupted calibration resumes, and gives the same bytes as one without an interruption."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import time
from typing import Any

import msgspec
import numpy as np
import pytest

from fewstep.calibration import activation_counts, body_maker, checkpoint, task
from fewstep.calibration.calibrate import calibrate
from fewstep.calibration.options import CalibrateOptions
from fewstep.calibration.ranges import observe
from fewstep.calibration.ranges.histogram import make_histogram
from fewstep.calibration.ranges.observe import Counts, tensors_to_observe
from fewstep.calibration.task import Task
from fewstep.calibration.trajectory_jobs import Trajectories
from fewstep.measure.workers import code_digest
from fewstep.runtime.bundle.reading import open_bundle
from fewstep.runtime.machine import cache
from fewstep.runtime.machine import code_digest as machine_digest
from tests.bundles import change_bundle, content_of
from tests.calibration.source_copies import copy_sources, edit
from tests.calibration.test_calibrate import FIRST, denoiser, prologue, write_bundle

WHOLE = 12  # trajectories
INTERRUPTED = 8  # as many as there are when it is killed: parts of 4


class Killed(Exception):
    pass


@pytest.fixture
def options(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> CalibrateOptions:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(activation_counts, "BATCH", 4)
    return replace(FIRST, bundle=bundle, target=("cpu-x86",), trajectories=WHOLE)


def checkpoints() -> list[Path]:
    return list((cache.folder() / "calibration").glob("*"))


def interrupt(options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill the calibration in the part after the first INTERRUPTED."""
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(
            activation_counts, "select_trajectories", Counted(activation_counts.select_trajectories, INTERRUPTED // 4)
        )
        calibrate(options)


class Counted:
    """Allow `calls` calls of a function, and kill the process at the next."""

    def __init__(self, function: Callable[..., Any], calls: int) -> None:
        self.function, self.left = function, calls

    def __call__(self, *arguments: Any, **more: Any) -> Any:
        if not self.left:
            raise Killed
        self.left -= 1
        return self.function(*arguments, **more)


def seeds_seen(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """A list that collects the seeds of all later counting."""
    seen: set[int] = set()
    real = activation_counts.select_trajectories

    def counting(task: Task, trajectories: Trajectories) -> Task:
        seen.update(trajectories[0])
        return real(task, trajectories)

    monkeypatch.setattr(activation_counts, "select_trajectories", counting)
    return seen


def test_it_goes_on_and_gives_the_same_bytes(
    options: CalibrateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = calibrate(replace(options, bundle=write_bundle(tmp_path / "other", denoiser()))).manifest
    assert not checkpoints()  # it is written, so nothing is left
    interrupt(options, monkeypatch)
    assert len(checkpoints()) == 1
    seen = seeds_seen(monkeypatch)
    assert calibrate(options).manifest.files == expected.files
    assert seen == set(range(options.seed + INTERRUPTED, options.seed + WHOLE))
    assert "resuming an unfinished calibration after 8 trajectories" in caplog.text and not checkpoints()


@pytest.mark.parametrize("changes", [{"plan": "ddim:4"}, {"seed": 2_000_000}, {"trajectories": 16}, {"guidance": 3.0}])
def test_another_calibration_does_not_go_on_from_it(
    options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changes: dict
) -> None:
    interrupt(options, monkeypatch)
    calibrate(replace(options, **changes))
    assert "resuming" not in caplog.text and len(checkpoints()) == 1


def other_condition(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = open_bundle(bundle).manifest
    classes = tuple(msgspec.structs.replace(condition, low=1) for condition in manifest.conditions)
    change_bundle(bundle, conditions=classes)


def other_prologue(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = prologue()
    graph = replace(graph, constants={**graph.constants, "thousandth": np.float32(2e-3)})
    change_bundle(bundle, {"graphs/prologue.onnx": content_of(graph)})


def other_processor(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = msgspec.structs.replace(code_digest.this_cpu(), name="another")
    monkeypatch.setattr(code_digest, "this_cpu", lambda: cpu)


def other_version(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_digest, "version_of", lambda package: "1000.0")


def other_code(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Edit one file of the counting code, in a copy."""
    copies = copy_sources(bundle.parent / "copy")
    monkeypatch.setattr(code_digest, "PACKAGES", copies)
    edit(copies, "calibration", "ranges/histogram.py")


def more_tensors(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (task, observe):
        monkeypatch.setattr(
            module, "tensors_to_observe", lambda graph, no_floats=False: (*tensors_to_observe(graph), "m1")
        )


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [other_condition, other_prologue, other_processor, other_version, other_code, more_tensors]
)
def test_what_the_inputs_follow_from_is_part_of_what_is_kept(
    options: CalibrateOptions,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    change: Callable[[Path, pytest.MonkeyPatch], None],
) -> None:
    interrupt(options, monkeypatch)
    change(options.bundle, monkeypatch)
    calibrate(options)
    assert "resuming" not in caplog.text and len(checkpoints()) == 1


def test_counts_without_a_tensor_start_anew(
    options: CalibrateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever the reason for such a file, the missing counts could never be made up for."""
    expected = calibrate(replace(options, bundle=write_bundle(tmp_path / "other", denoiser()))).manifest
    with monkeypatch.context() as before:
        before.setattr(observe, "tensors_to_observe", lambda graph, no_floats=False: tensors_to_observe(graph)[1:])
        interrupt(options, monkeypatch)
    assert calibrate(options).manifest.files == expected.files
    assert "lacks tensor 'x'" in caplog.text and not checkpoints()


def test_drafts_of_killed_writes_go_with_their_checkpoint_and_what_is_abandoned_after_a_month(
    options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt(options, monkeypatch)
    (own,) = checkpoints()
    part, young, old = f"{own.name}-0123", "young", "old"
    for name in (f".{own.name}.77", f".{part}.77", young, old, f".{old}.77"):
        (own.parent / name).write_bytes(b"")
    for name in (old, f".{old}.77"):
        os.utime(own.parent / name, (time() - 31 * 86400,) * 2)
    os.utime(own.parent / young, (time() - 29 * 86400,) * 2)
    calibrate(options)
    assert [path.name for path in checkpoints()] == [young]


@pytest.mark.parametrize("left", [0, 2, 1000], ids=["empty", "start", "part"])
def test_a_damaged_file_is_none(
    options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    interrupt(options, monkeypatch)
    (path,) = checkpoints()
    path.write_bytes(path.read_bytes()[:left])
    calibrate(options)
    assert "is damaged, and is made again" in caplog.text


def test_own_conditions_are_part_of_what_is_kept(
    options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = replace(options, conditions=tmp_path / "own.npz")
    for classes in ([0, 1], [1, 1]):
        np.savez(tmp_path / "own.npz", **{"class": np.array(classes)})
        interrupt(own, monkeypatch)
    assert len(checkpoints()) == 2 and "resuming" not in caplog.text


def test_what_channels_reached_survives_the_file_bit_for_bit() -> None:
    """As many extremes as a tensor has channels, including -0.0 and subnormals."""
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal((9, channels)).astype(np.float32) for name, channels in (("a", 5), ("b", 3))}
    values["a"][:, 2:4] = [-0.0, 1e-45]
    axes = {"a": 1, "b": -1}
    held = {
        (name, g): make_histogram(of * np.float32(1 + g), axes[name]) for name, of in values.items() for g in range(2)
    }
    held |= {("plain", g): make_histogram(values["a"]) for g in range(2)}
    counts = Counts((*values, "plain"), (0.0,), held, axes)
    checkpoint.Checkpoint("extremes").save(counts, 7, is_last=True)
    found, done = checkpoint.Checkpoint("extremes").load(Counts(counts.tensors, counts.edges, axes=axes))
    assert done == 7 and found.axes == axes and found.histograms.keys() == held.keys()
    for key, histogram in held.items():
        again = found.histograms[key]
        assert (again.exponent, again.first) == (histogram.exponent, histogram.first)
        for part in ("stored", "lows", "highs"):
            one, other = getattr(again, part), getattr(histogram, part)
            assert one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()


def test_what_comes_after_the_counting_does_not_count_again(
    options: CalibrateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed while it judges the lowered bodies, a moment after the counts were written."""
    monkeypatch.setattr(checkpoint, "SECONDS", 1e9)
    expected = calibrate(replace(options, bundle=write_bundle(tmp_path / "other", denoiser()))).manifest
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(body_maker, "check_near", Counted(body_maker.check_near, calls=0))
        calibrate(options)
    assert calibrate(options).manifest.files == expected.files
    assert "unfinished calibration after 12 trajectories" in caplog.text and not checkpoints()
