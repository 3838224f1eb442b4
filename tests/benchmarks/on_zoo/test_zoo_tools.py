"""zoo_tools.py: each member is judged beside the tools that are asked for."""

import runpy
import sys
from argparse import Namespace
from dataclasses import replace as replaced
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.calibrate import calibrate
from tests.calibration.test_calibrate import denoiser, write_bundle

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/on_zoo/zoo_tools.py"))


class Small:
    """A member that is exported in no time, of the bundle that calibration is tested on."""

    name, plan, guidance = "dit_flow", "ddim:8", 2.0

    def __init__(self, folder: Path, own: bool) -> None:
        self.folder, self.own = folder, own

    def along(self, steps: int) -> str:
        return f"ddim:{steps}"

    def exported(self, *settings: object) -> Path:
        folder = self.folder / sha256(repr(settings).encode()).hexdigest()[:12]
        return folder if folder.exists() else write_bundle(folder, denoiser())

    def rows(self, count: int, seed: int) -> dict[str, Any] | None:
        return {"class": np.arange(seed, seed + count) % 2} if self.own else None


@pytest.mark.parametrize(
    ("own", "trajectories"),
    [pytest.param(False, 4, id="drawn"), pytest.param(True, 64, id="own conditions", marks=pytest.mark.slow)],
)
def test_a_member_is_judged_beside_the_tools(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool, trajectories: int
) -> None:
    names = SCRIPT["run"].__globals__
    monkeypatch.setitem(names, "exported", lambda member, work, *rest: member.exported(*rest))
    monkeypatch.setitem(
        names, "calibrate", lambda options, *rest: calibrate(replaced(options, trajectories=trajectories), *rest)
    )
    given = Namespace(work=tmp_path, seeds=4, first_seed=1000, only=["ort_static-defaults"], batch=8)
    given.no_speed, given.picture = True, None
    python = {"ort_static": sys.executable if own else "/no/python"}
    (found,) = SCRIPT["run"]([Small(tmp_path / "bundles", own)], [3], python, given)
    assert (found.model, found.steps, found.first, found.seeds) == ("tiny", 3, 1000, 4)
    assert found.code == SCRIPT["own_code"]()
    ours, theirs = found.rows
    assert ours.quality.mean > 30
    if own:
        assert 20 < theirs.quality.mean < ours.quality.mean
    seen = SCRIPT["own_conditions"](Small(tmp_path, own), range(1000, 1004))
    assert (seen is None) is not own


def test_seeds_that_are_not_held_out_are_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--first-seed", "-5", "--model", "dit_flow"])
    assert "seeds -5 to 58 are not held out; choose from 0 to " in capsys.readouterr().err
