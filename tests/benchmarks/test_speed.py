"""benchmarks/speed.py on a bundle that has nothing to hold against a bar."""

import runpy
from pathlib import Path

import pytest

from tests.calibration.test_calibrate import denoiser, write_bundle

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/speed.py"))


def test_a_bundle_that_is_not_calibrated_is_refused_with_the_fix(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    with pytest.raises(SystemExit, match="2"):
        SCRIPT["main"]([str(bundle)])
    said = capsys.readouterr().err
    assert f"{bundle} has no int8-cpu-x86 to time; fewstep calibrate {bundle} --target cpu-x86" in said
    assert "float32 (" not in said
