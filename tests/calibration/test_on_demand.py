"""A body that is opened when it is first run."""

from pathlib import Path

from fewstep.calibration.on_demand import OnDemand, OpeningOnDemand
from fewstep.runtime.backends.onnxruntime import OnnxRuntime
from fewstep.runtime.loading import load
from tests.calibration.test_calibrate import denoiser, write_bundle


def test_a_body_is_opened_on_the_threads_that_were_asked_for(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    body = load(bundle, body="float32", backend=OpeningOnDemand(threads=1)).denoiser
    assert isinstance(body, OnDemand) and body.backend == OnnxRuntime(threads=1)
