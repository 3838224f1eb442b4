"""A body that is opened when it is first run."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.measure.rollouts.on_demand import OpeningOnDemand
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.bundle import reading
from fewstep.runtime.bundle.reading import file_sha256
from fewstep.runtime.loading import load
from fewstep.runtime.on_demand import OnDemand
from tests.calibration.test_calibrate import SHAPE, denoiser, write_bundle


def test_a_body_is_opened_on_the_threads_that_were_asked_for(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    body = load(bundle, body="float32", backend=OpeningOnDemand(threads=1)).of().graph
    assert isinstance(body, OnDemand) and body.backend == OnnxRuntime(threads=1)


def test_files_are_hashed_once_however_often_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    sampler = load(bundle, body="float32", backend=OpeningOnDemand())
    body, hashed = sampler.of().graph, list[Path]()
    assert isinstance(body, OnDemand)
    monkeypatch.setattr(reading, "file_sha256", lambda path: hashed.append(path) or file_sha256(path))
    feeds = {"x": np.zeros((1, *SHAPE), np.float32), "row": np.ones((1, 1, 1, 1), np.float32)}
    for _ in range(2):
        body(feeds)
        body.close()
    assert [path.name for path in hashed] == [Path(sampler.body.graph.file).name]
