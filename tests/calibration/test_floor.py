"""Bodies below the floor are not written."""

from pathlib import Path

import pytest

from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.calibration.test_calibrated_body import judged, plant, run


def test_a_body_far_from_float_is_refused_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    near = judged(run(bundle))
    assert near.snr is not None and 0 < near.psnr - near.snr < 20
    assert near.unrelated is not None and near.unrelated < near.psnr - 10
    before = open_bundle(bundle).manifest
    plant(monkeypatch, 10.0)
    with pytest.raises(UserError, match=r"25 and 15 dB are the least") as refused:
        run(bundle)
    assert "--quality 30" in refused.value.fix and open_bundle(bundle).manifest == before
