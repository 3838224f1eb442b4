"""benchmarks/ablation.py on a bundle of three convolutions: every row runs, and nothing is measured twice."""

import json
import runpy
from pathlib import Path

import pytest

import fewstep.calibration
from fewstep.plans.errors import UserError
from tests.calibration.test_calibrate import denoiser, write_bundle

SCRIPT = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks/ablation.py"))
SHORT = ("--plan", "ddim:2", "--seeds", "4", "--calibrations", "1", "--trajectories", "4", "--json")


@pytest.mark.slow
def test_every_row_is_measured_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    bundle, work = write_bundle(tmp_path / "bundle", denoiser()), tmp_path / "work"
    arguments = [str(bundle), "--work", str(work), *SHORT]
    assert SCRIPT["main"](arguments) == 0
    everything = json.loads(capsys.readouterr().out)
    found = everything["ddim:2"]
    assert tuple(found) == tuple(SCRIPT["ROWS"]) and all(len(results) == 1 for results in found.values())
    assert all(0 < result["mean"] < 100 for results in found.values() for result in results)
    (gone,) = [path for path in work.rglob("*.json") if json.loads(path.read_text()) == found[SCRIPT["BASE"]][0]][:1]
    times = {path: path.stat().st_mtime_ns for path in work.rglob("*.json") if path != gone}
    gone.unlink()
    assert SCRIPT["main"](arguments) == 0
    assert json.loads(capsys.readouterr().out) == everything and gone.exists()
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--seeds", "0"), "argument --seeds: 0 is less than 1"),
        (("--calibrations", "0"), "argument --calibrations: 0 is less than 1"),
        (("--only", "pooled", "--only", "nonsense"), "--only nonsense: no row has it in its name; choose from "),
    ],
)
def test_what_would_measure_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        SCRIPT["main"]([str(tmp_path), *SHORT, *given])
    assert said in capsys.readouterr().err


def test_results_of_other_code_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = SCRIPT["code"]()
    assert SCRIPT["code"]() == before
    (tmp_path / "changed.py").write_text("SCALE = 2\n")
    monkeypatch.setattr(fewstep.calibration, "__path__", [*fewstep.calibration.__path__, str(tmp_path)])
    assert SCRIPT["code"]() != before


def test_the_table_takes_differences_calibration_by_calibration() -> None:
    base = [{"mean": 40.0, "p5": 35.0}, {"mean": 42.0, "p5": 36.0}]
    other = [{"mean": 39.0, "p5": 33.0}, {"mean": 41.5, "p5": 34.0}]
    *_, first, second = SCRIPT["table"]({SCRIPT["BASE"]: base, "other": other}).split("\n")
    assert first == "| channels, no error taken out | 41.00 (40.00 to 42.00) | 35.5 |  |"
    assert second == "| other | 40.25 (39.00 to 41.50) | 33.5 | -0.75 (-1.00 to -0.50) |"


def test_a_plans_table_takes_the_place_of_its_own_and_others_stay() -> None:
    script = SCRIPT["SCRIPT"]
    start, end = f"<!-- made by {script} -->", f"<!-- end of what {script} makes -->"
    text = f"before\n{start}\n\n`ddim:8`, old\n\n| a |\n\n`ddim:4`, old\n\n| b |\n\n{end}\nafter"
    once = SCRIPT["page"](text, {"ddim:4": "`ddim:4`, new\n\n| c |"})
    kept = f"before\n{start}\n\n`ddim:8`, old\n\n| a |"
    assert once == f"{kept}\n\n`ddim:4`, new\n\n| c |\n\n{end}\nafter"
    twice = SCRIPT["page"](once, {"ddim:2": "`ddim:2`, new\n\n| d |"})
    assert twice == f"{kept}\n\n`ddim:4`, new\n\n| c |\n\n`ddim:2`, new\n\n| d |\n\n{end}\nafter"
    with pytest.raises(UserError, match="no place for what benchmarks/ablation.py makes"):
        SCRIPT["page"]("nothing", {})
    page = SCRIPT["PAGE"].read_text()
    assert SCRIPT["page"](page, {}) == page
