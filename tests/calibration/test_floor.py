"""Bodies below the floor are not written."""

from pathlib import Path

import numpy as np
import pytest

from fewstep.calibration.floor import is_enough
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Trial
from fewstep.runtime.bundle.reading import open_bundle
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.calibration.test_calibrated_body import judged, plant, run


@pytest.mark.parametrize(
    ("psnr", "snr", "enough"),
    [
        (25.0, 15.0, True),
        (24.9, 20.0, False),
        (40.0, 14.9, False),
        (25.0, None, True),
        (np.nan, 20.0, False),
        (-200.0, 50.0, True),
    ],
)
def test_both_figures_are_asked_for(psnr: float, snr: float | None, enough: bool) -> None:
    assert is_enough(Trial("channels", psnr, psnr, 8, is_chosen=True, snr=snr)) is enough


def test_a_body_far_from_float_is_refused_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    near = judged(run(bundle))
    assert near.snr is not None and 0 < near.psnr - near.snr < 20
    before = open_bundle(bundle).manifest
    plant(monkeypatch, 10.0)
    with pytest.raises(UserError, match=r"of 25 and 15 that are the least") as refused:
        run(bundle)
    assert "--quality 30" in refused.value.fix and open_bundle(bundle).manifest == before
