"""A calibration that was interrupted goes on, and gives the bytes that it would have given."""

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_calibrate import FIRST, denoiser, write_bundle

from fewstep.calibration import checkpoint, count
from fewstep.calibration.calibrate import CalibrateOptions, calibrate
from fewstep.calibration.trajectories import Evaluation
from fewstep.runtime import cache

WHOLE = 12  # trajectories
INTERRUPTED = 8  # as many as there are when it is killed: batches of 4


class Killed(Exception):
    pass


@pytest.fixture
def options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CalibrateOptions:
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    monkeypatch.setattr(count, "BATCH", 4)
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    return replace(FIRST, bundle=bundle, target=("cpu-x86",), trajectories=WHOLE)


def kept() -> list[Path]:
    return list((cache.folder() / "calibration").glob("*"))


def interrupt(options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kill it in the batch after the first INTERRUPTED trajectories."""
    real = count.evaluations

    def dying(*arguments: object, **more: object):  # type: ignore[no-untyped-def]
        done = 0
        for evaluation in real(*arguments, **more):
            assert isinstance(evaluation, Evaluation)
            if done >= INTERRUPTED:
                raise Killed
            done += len(evaluation.seeds) * (evaluation.state.index == 2)
            yield evaluation

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(count, "evaluations", dying)
        calibrate(options)


def test_it_goes_on_and_gives_the_same_bytes(
    options: CalibrateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = calibrate(replace(options, bundle=write_bundle(tmp_path / "other", denoiser()))).manifest
    assert not kept()  # it is written, so nothing is left
    interrupt(options, monkeypatch)
    assert len(kept()) == 1
    seen: list[int] = []
    real = count.evaluations

    def counting(*arguments: object, **more: object):  # type: ignore[no-untyped-def]
        for evaluation in real(*arguments, **more):
            seen.extend(evaluation.seeds)
            yield evaluation

    monkeypatch.setattr(count, "evaluations", counting)
    with caplog.at_level(logging.WARNING, "fewstep"):
        assert calibrate(options).manifest.files == expected.files
    assert set(seen) == set(range(options.seed + INTERRUPTED, options.seed + WHOLE))
    assert "going on after 8 trajectories" in caplog.text and not kept()


@pytest.mark.parametrize("changes", [{"plan": "ddim:4"}, {"seed": 2_000_000}, {"trajectories": 16}, {"guidance": 3.0}])
def test_another_calibration_does_not_go_on_from_it(
    options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, changes: dict
) -> None:
    interrupt(options, monkeypatch)
    calibrate(replace(options, **changes))
    assert "going on" not in caplog.text and len(kept()) == 1


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_file_is_none(
    options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, damage: bytes | None
) -> None:
    interrupt(options, monkeypatch)
    (path,) = kept()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] if damage is None else damage)
    calibrate(options)
    assert "it starts anew" in caplog.text


def test_own_conditions_are_part_of_what_is_kept(
    options: CalibrateOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = replace(options, conditions=tmp_path / "own.npz")
    for classes in ([0, 1], [1, 1]):
        np.savez(tmp_path / "own.npz", **{"class": np.array(classes)})
        interrupt(own, monkeypatch)
    assert len(kept()) == 2 and "going on" not in caplog.text
