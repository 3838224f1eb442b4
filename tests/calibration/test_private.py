"""Calibration data may be private: no part of it is in the bundle, in any form."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration import calibrate as verb
from fewstep.calibration import task
from fewstep.measure.rollouts.trajectories import BodyCall
from tests.calibration.test_calibrate import FIRST, denoiser, write_bundle

RUN = 4  # numbers in a row: what a sample has in common with a bundle must be shorter


def test_no_four_numbers_of_a_trajectory_are_in_the_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[np.ndarray] = []

    def spy(*arguments: object, **options: object):  # type: ignore[no-untyped-def]
        for evaluation in real(*arguments, **options):
            assert isinstance(evaluation, BodyCall)
            seen.extend(np.asarray(array) for array in (*evaluation.state.before, *evaluation.state.after))
            seen.extend(np.asarray(array) for array in evaluation.feeds.values())
            seen.extend(np.asarray(array) for array in evaluation.tensors.values())
            yield evaluation

    real = task.roll_out
    monkeypatch.setattr(task, "roll_out", spy)
    before = set(bundle.rglob("*"))
    manifest = verb.calibrate(replace(FIRST, bundle=bundle)).manifest
    assert len(seen) >= 3 * 4
    made = [path.read_bytes() for path in sorted(set(bundle.rglob("*")) - before) if path.is_file()]
    assert len(made) == len(manifest.files) - 2  # graphs, a plan, ranges
    for array in (each for each in seen if each.size >= RUN):  # second moments follow one sample at a time
        rows = np.lib.stride_tricks.sliding_window_view(array.ravel(), RUN)[::97]
        for row in rows[np.abs(rows).min(axis=1) > 0]:
            for kind in (np.float16, np.float32, np.float64):
                assert not any(row.astype(kind).tobytes() in content for content in made)


def test_a_bundle_names_no_user_host_or_folder(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "a-telling-name", denoiser())
    verb.calibrate(replace(FIRST, bundle=bundle))
    for path in bundle.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            for telling in ("a-telling-name", str(tmp_path), str(Path.home() / ""), str(Path.cwd())):
                assert len(telling) < 3 or telling.encode() not in content, path
