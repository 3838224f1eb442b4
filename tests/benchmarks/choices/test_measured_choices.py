"""benchmarks/choices/measure.py on a bundle of three convolutions: rows run, are kept, and stand in one table."""

from dataclasses import dataclass
from pathlib import Path

import pytest

import fewstep.calibration
from benchmarks.choices import measure
from benchmarks.choices.rows import BASE, ROWS
from benchmarks.zoo.members import Member
from tests.calibration.test_calibrate import denoiser, write_bundle

SHORT = ("--steps", "2", "--seeds", "4", "--trajectories", "4")


@dataclass(frozen=True)
class Tiny(Member):
    def rows(self, count: int, seed: int) -> None:
        return None


def result(*psnr: float, image: float = 0.02) -> measure.Result:
    return measure.Result(image, list(psnr))


def test_differences_of_two_standard_errors_are_bold() -> None:
    base = measure.joined([result(40.0, 42.0, image=0.1), result(41.0, image=0.04)])
    results = {
        "a": {BASE: base, "other": result(38.0, 40.5, 39.0)},
        "b": {BASE: result(40.0, 42.0, 41.0), "other": result(43.0, 40.0, 41.0)},
    }
    *_, default, other = measure.table(results).split("\n")
    assert default == f"| {BASE} | 41.0 / 40.1 (7 %) | 41.0 / 40.1 (2 %) |"
    assert other == "| other | **-1.8** / -2.0 | +0.3 / +0.0 |"


@pytest.mark.parametrize(
    "only", [pytest.param(("minmax, not",), id="one"), pytest.param((), id="all", marks=pytest.mark.slow)]
)
def test_each_row_is_measured_once_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], only: tuple[str, ...]
) -> None:
    if not only:
        pytest.importorskip("openvino", reason="openvino is not installed")
    write_bundle(tmp_path / "tiny", denoiser())
    page, script = tmp_path / "page.md", measure.SCRIPT
    page.write_text(f"before\n<!-- made by {script} -->\n<!-- end of what {script} makes -->\nafter")
    monkeypatch.setattr(measure, "MEMBERS", (Tiny("tiny", "ddim:8"),))
    monkeypatch.setattr(measure, "PAGE", page)
    monkeypatch.setattr(measure, "PARTS", {("tiny",): script})
    monkeypatch.setattr(measure, "exported", lambda member, work: work / member.name)
    arguments = ["--work", str(tmp_path), *SHORT, *(word for part in only for word in ("--only", part))]
    assert measure.main(arguments) == 0
    said = capsys.readouterr().out
    assert said.count("\n| ") == (4 if only else 2 + len(ROWS)) and f"| {BASE} | " in said
    assert said.strip() in page.read_text()
    gone, *kept = tmp_path.glob("rows/*.json")
    times = {path: path.stat().st_mtime_ns for path in kept}
    gone.unlink()
    assert len(kept) == (1 if only else len(ROWS) - 1) and measure.main(arguments) == 0
    assert gone.exists() and all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert capsys.readouterr().out == said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--calibrations", "0"), "argument --calibrations: 0 is less than 1"),
        (("--only", "pooled", "--only", "nonsense"), "--only nonsense: no row has it in its name; choose from "),
        (("--first-seed", "-5"), "seeds -5 to -2 are not held out; choose from 0 to "),
    ],
)
def test_what_would_measure_nothing_is_refused(
    capsys: pytest.CaptureFixture[str], given: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        measure.main([*SHORT, *given])
    assert said in capsys.readouterr().err


def test_results_of_other_code_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = measure.code()
    assert measure.code() == before
    (tmp_path / "changed.py").write_text("SCALE = 2\n")
    monkeypatch.setattr(fewstep.calibration, "__path__", [*fewstep.calibration.__path__, str(tmp_path)])
    assert measure.code() != before
