"""`inspect` tells fitted plans apart."""

from pathlib import Path

import pytest

from fewstep.cli.main import main
from tests.runtime.test_fitted_plans import give


def lines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> list[str]:
    monkeypatch.setenv("COLUMNS", "400")
    assert main(list(words)) == 0
    return [line.strip("│├└─ ") for line in capsys.readouterr().out.splitlines()]


def test_a_line_has_guidance_and_teacher(
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
        f"plan fitted:3 for int8-cpu-x86, guidance 2: {gain}",
    ]
