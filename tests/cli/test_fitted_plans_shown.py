"""`inspect` tells fitted plans apart, and `calibrate` names those that its new bodies leave behind."""

from pathlib import Path

import pytest

from fewstep.cli.main import main
from tests.calibration.test_calibrate import denoiser, write_bundle
from tests.runtime.test_fitted_plans import give


def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(list(words)) == 0
    return [line.strip("│├└─ ") for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_guidance_and_teacher_and_whether_the_body_is_another_now(
    tiny_bundle: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    give(tiny_bundle, guidance=2.0)
    give(tiny_bundle, guidance=None)
    give(tiny_bundle, body="int8-cpu-x86", graph="1" * 64)
    printed = lines(capsys, monkeypatch, "inspect", str(tiny_bundle))
    gain = "20.0 to 24.0 dB over dpmpp_2m:3, by the teacher ddim:20"
    assert [line for line in printed if line.startswith("plan fitted")] == [
        f"plan fitted:3 for float32, guidance 2: {gain}",
        f"plan fitted:3 for float32, guidance none: {gain}",
        f"plan fitted:3 for int8-cpu-x86, guidance 2: {gain}; its body was calibrated again since",
    ]


def test_a_calibration_names_the_plans_that_it_leaves_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    few = ["calibrate", str(bundle), "--plan", "ddim:2", "--target", "cpu-x86", "--ranges", "channels"]
    assert not [line for line in lines(capsys, monkeypatch, *few, "--trajectories", "2") if "former" in line]
    give(bundle)  # float32 stays
    give(bundle, body="int8-cpu-x86")
    command = f"fewstep fit {bundle} --steps 3 --precision int8 --guidance 2"
    printed = lines(capsys, monkeypatch, *few, "--trajectories", "4")
    said = f"fitted:3: fitted to the former int8-cpu-x86; fit it again: {command}"
    assert [line for line in printed if "former" in line] == [said]
