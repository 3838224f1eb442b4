"""benchmarks/step_cost.py: shares of a step from rounds, and all of it on a tiny bundle."""

import argparse
import json
from pathlib import Path

import pytest
import step_cost
from step_cost import Cost, main

from fewstep.evaluation.speed.race import Contender, Race, Timing
from fewstep.runtime.progress import SILENT
from tests.calibration.test_calibrate import denoiser, write_bundle

FORMS = [
    "cpu-x86: scales of channels where they win",
    "cpu-x86: scales of channels everywhere",
    "openvino: ranges per step",
    "openvino: scales of channels",
]


def test_a_share_is_that_of_a_step_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A body that is 0.8 times as fast takes 25 % more of a step; one that is twice as fast, half a step less."""
    timings = tuple(
        Timing(name, 1.0, 1.0, 1.0, 1.0, 1, ratio, low, high, 0.0, 0.0)
        for name, ratio, low, high in (("without", 1.0, 1.0, 1.0), ("slow", 0.8, 0.5, 1.0), ("fast", 2.0, 1.0, 4.0))
    )
    monkeypatch.setattr(step_cost, "race", lambda *_: Race(2, 1, 3, timings))
    options = argparse.Namespace(threads=1, rounds=3, turn_seconds=0.1, progress=SILENT)
    contenders = [Contender(name, Path(name), {}) for name in ("without", "slow", "fast")]
    found = list(step_cost._raced(contenders[0], {"slow": contenders[1], "fast": contenders[2]}, 1, options))
    assert [(each.percent, each.lowest, each.highest) for each in found] == [(25, 0, 100), (-50, -75, 0)]
    assert str(Cost("x", 8, 2.04, -1.0, 3.0)).endswith("8 samples   +2.0 % (-1.0 to +3.0)")


@pytest.mark.slow
def test_a_tiny_bundle_goes_the_whole_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino")
    bundle = write_bundle(tmp_path / "bundle", denoiser())
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    few = ["--plan", "ddim:2", "--trajectories", "4", "--rounds", "1", "--turn-seconds", "0.01", "--threads", "1"]
    assert main([str(bundle), *few, "--samples", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["form"] for each in found] == FORMS
    assert all(-100 < each["lowest"] <= each["percent"] <= each["highest"] and each["samples"] == 2 for each in found)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before


def test_what_is_no_bundle_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "is no bundle" in capsys.readouterr().err
