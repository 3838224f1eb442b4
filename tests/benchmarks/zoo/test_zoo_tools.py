"""benchmarks/zoo_tools.py: a line for each member and engine, against the best tool of the same coverage."""

import runpy
import sys
from argparse import Namespace
from dataclasses import replace as replaced
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.calibration.calibrate import calibrate
from fewstep.plans.errors import UserError
from tests.calibration.test_calibrate import denoiser, write_bundle

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/zoo_tools.py"))
TYPES = SCRIPT["save"].__globals__


def quality(mean: float, p5: float, ops: str = "ab") -> Any:
    return TYPES["Quality"](mean, p5, p5 - 1, 96, 100, tuple(ops), 0.0312)


def outcome(*rows: Any, model: str = "dit_flow") -> Any:
    return TYPES["Outcome"](model, "dpmpp_2m:8", 8, None, 64, 64, 8, "cpu", ("fewstep 1",), rows)


def row(name: str, found: Any, engine: str = "onnxruntime") -> Any:
    return TYPES["Row"](
        engine, name, "" if name == "fewstep" else name, found, chosen="channels", plain=quality(44.0, 39.0)
    )


def test_the_best_of_the_same_operations_is_compared() -> None:
    found = outcome(
        row("fewstep", quality(45.0, 40.0)),
        row("defaults", quality(42.0, 39.5)),
        row("b", quality(43.0, 37.5)),
        row("less", quality(60.0, 60.0, "a")),  # in float where ours is in int8
        row("failed", None),
    )
    (line,) = SCRIPT["lines"](found)
    assert line == (
        "| dit_flow | 8 | 64 from 0 | onnxruntime | 45.0 / 40.0 | channels | 44.0 / 39.0 | 96.0 % | 3.1 %"
        " | 43.0 / 37.5 (b) | +2.0 / +2.5 | +3.0 | 10 dB |"
    )
    (line,) = SCRIPT["lines"](replace(found, rows=tuple(each for each in found.rows if each.setting != "defaults")))
    assert line.endswith(" | 43.0 / 37.5 (b) | +2.0 / +2.5 |  | none |")


@pytest.mark.parametrize(
    ("mean", "p5", "missed"),
    [(47.0, 42.0, "none"), (46.9, 42.0, "2 dB"), (47.0, 41.9, "2 dB"), (46.4, 41.9, "2 dB, 10 dB")],
)
def test_the_bars_hold_for_the_mean_the_tail_and_above_defaults(mean: float, p5: float, missed: str) -> None:
    rows = (row("fewstep", quality(mean, p5)), row("a", quality(45.0, 40.0)), row("defaults", quality(36.5, 20.0, "a")))
    (line,) = SCRIPT["lines"](outcome(*rows))
    assert line.endswith(f" | {missed} |")


def test_an_engine_without_an_equal_says_so() -> None:
    (line,) = SCRIPT["lines"](outcome(row("fewstep", quality(45.0, 40.0)), row("less", quality(44.0, 40.0, "a"))))
    assert line.startswith("| dit_flow | 8 | 64 from 0 | onnxruntime | 45.0 / 40.0 | channels | 44.0 / 39.0 |")
    assert line.endswith("| 96.0 % | 3.1 % | none |  |  | no equal |")


def test_outcomes_of_other_code_or_other_seeds_are_left_out_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    own = replace(outcome(row("fewstep", quality(45.0, 40.0))), code=SCRIPT["own_code"](), first=1000)
    elsewhere = replace(own, model="tiny")  # nothing that is judged here
    others = (replace(own, code="of an earlier version"), replace(own, first=0), replace(own, seeds=32))
    assert SCRIPT["comparable"]([elsewhere, *others, own], range(1000, 1064)) == (own,)
    assert capsys.readouterr().err == "left out: 3 kept outcomes of other code or other held-out seeds\n"
    assert SCRIPT["comparable"]([elsewhere, own], range(1000, 1064)) == (own,)
    assert not capsys.readouterr().err


def test_the_page_has_the_table_between_its_markers() -> None:
    start, end = SCRIPT["MARKERS"]
    made = SCRIPT["described"]([outcome(row("fewstep", quality(45.0, 40.0)))])
    text = SCRIPT["page"](f"before\n{start}\nold\n{end}\nafter", made)
    assert text.startswith("before") and text.endswith("after") and "old" not in text
    assert "| dit_flow | 8 |" in text and "Made with fewstep 1." in text
    with pytest.raises(UserError, match="markers"):
        SCRIPT["page"]("nothing", "")


class Small:
    """A member that is exported in no time, of the bundle that calibration is tested on."""

    name, plan, guidance = "dit_flow", "ddim:8", 2.0

    def __init__(self, folder: Path, own: bool) -> None:
        self.folder, self.own = folder, own

    def exported(self, *settings: object) -> Path:
        folder = self.folder / sha256(repr(settings).encode()).hexdigest()[:12]
        return folder if folder.exists() else write_bundle(folder, denoiser())

    def rows(self, count: int, seed: int) -> dict[str, Any] | None:
        return {"class": np.arange(seed, seed + count) % 2} if self.own else None


@pytest.mark.parametrize(
    ("own", "trajectories"),
    [pytest.param(False, 4, id="drawn"), pytest.param(True, 64, id="own conditions", marks=pytest.mark.slow)],
)
def test_a_member_is_judged_with_its_trials_and_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own: bool, trajectories: int
) -> None:
    names = SCRIPT["run"].__globals__
    monkeypatch.setitem(names, "exported", lambda member, work, *rest: member.exported(*rest))
    monkeypatch.setitem(
        names, "calibrate", lambda options, *rest: calibrate(replaced(options, trajectories=trajectories), *rest)
    )
    given = Namespace(work=tmp_path, seeds=4, first_seed=1000, only=["ort_static-defaults"], no_speed=True, batch=8)
    python = {"ort_static": sys.executable if own else "/no/python"}
    (found,) = SCRIPT["run"]([Small(tmp_path / "bundles", own)], [3], python, given)
    assert SCRIPT["saved"](tmp_path) == (found,)
    assert (found.model, found.steps, found.first, found.seeds) == ("tiny", 3, 1000, 4)
    assert found.code == SCRIPT["own_code"]()
    ours, theirs = found.rows
    assert ours.chosen.startswith("channels") and not theirs.chosen
    assert min(ours.quality.mean, ours.plain.mean) > 30 and theirs.plain is None
    if own:
        assert 20 < theirs.quality.mean < ours.quality.mean
    seen = SCRIPT["own_conditions"](Small(tmp_path, own), range(1000, 1004))
    assert (seen is None) is not own


def test_seeds_that_are_not_held_out_are_refused_before_anything_runs(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        SCRIPT["main"](["--first-seed", "-5", "--model", "dit_flow"])
    assert "seeds -5 to 58 are not held out; choose from 0 to " in capsys.readouterr().err
