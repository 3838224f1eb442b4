"""zoo_choices.py: one table of wins and losses, and a member that is a bundle of three convolutions."""

import runpy
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.calibration.test_calibrate import denoiser, write_bundle

SCRIPT = runpy.run_path(str(Path(__file__).parents[3] / "benchmarks/on_zoo/zoo_choices.py"))
BASE = SCRIPT["BASE"]


@dataclass(frozen=True)
class Tiny:
    name: str = "tiny"
    plan: str = "ddim:8"
    guidance: float = 1.0

    def rows(self, count: int, seed: int) -> None:
        return None


def result(*psnr: float, image: float = 0.02) -> list[dict[str, object]]:
    return [{"mean": sum(psnr) / len(psnr), "p5": min(psnr), "image": image, "psnr": list(psnr)}]


def test_differences_of_two_standard_errors_are_bold() -> None:
    found = {
        "a": {BASE: result(40.0, 42.0, 41.0), "other": result(38.0, 40.5, 39.0)},
        "b": {BASE: result(40.0, 42.0, 41.0, image=0.126), "other": result(43.0, 40.0, 41.0)},
    }
    *_, default, other = SCRIPT["table"](found).split("\n")
    assert default == f"| {BASE} | 41.0 / 40.0 (2 %) | 41.0 / 40.0 (13 %) |"
    assert other == "| other | **-1.8** / -2.0 | +0.3 / +0.0 |"


def test_each_member_is_measured_along_its_plan_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bundle(tmp_path / "tiny", denoiser())
    page = tmp_path / "zoo.md"
    script = "benchmarks/ablation.py"
    page.write_text(f"before\n<!-- made by {script} -->\n<!-- end of what {script} makes -->\nafter")
    script = SCRIPT["main"].__globals__
    monkeypatch.setitem(script, "MEMBERS", (Tiny(),))
    monkeypatch.setitem(script, "PAGE", page)
    monkeypatch.setitem(script, "exported", lambda member, work: work / member.name)
    arguments = [
        "--work",
        str(tmp_path),
        "--steps",
        "2",
        "--seeds",
        "4",
        "--trajectories",
        "4",
        "--only",
        "minmax, not",
    ]
    assert SCRIPT["main"](arguments) == 0
    said = capsys.readouterr().out
    assert said.count("| ranges: ") == 1 and f"| {BASE} | " in said
    assert said.strip() in page.read_text()
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*-*.json") if path.name != "manifest.json"}
    assert len(times) == 2 and SCRIPT["main"](arguments) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in times.items())
    assert capsys.readouterr().out == said
