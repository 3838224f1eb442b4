"""The age of measured pages beside the code that they judge: .ci/check_measured.py."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CHECK = runpy.run_path(str(ROOT / ".ci/check_measured.py"))


def test_pages_have_their_scripts_and_the_rooms_that_these_import() -> None:
    scripts = dict(CHECK["scripts"]())
    assert {"zoo.md", "policy.md", "fitting.md"} < scripts.keys() and all(map(Path.is_file, scripts.values()))
    assert {"calibration", "lowering"} < CHECK["rooms"](ROOT / "evaluation/report/write.py", set())  # by others
    assert CHECK["rooms"](ROOT / "benchmarks/choices/measure.py", set()) == {"calibration", "lowering", "ranges"}
    assert CHECK["FIGURE"].fullmatch("| `dit_flow` | 46.6 |") and not CHECK["FIGURE"].fullmatch("| model | dB |")


def test_a_page_without_figures_has_no_age_and_a_part_of_the_history_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECK["oldest"].__globals__, "git", lambda *_: "true\n")
    assert CHECK["oldest"]("page.md") is None
    with pytest.raises(SystemExit, match="git fetch --unshallow"):
        CHECK["main"]()
