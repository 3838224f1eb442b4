"""The bundle of three convolutions."""

from pathlib import Path

import pytest

from tests.calibration.test_calibrate import denoiser, write_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle", denoiser())
