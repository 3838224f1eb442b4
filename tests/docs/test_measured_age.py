"""The age of measured pages, compared with the code that they measure: .ci/check_measured.py."""

import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECK = runpy.run_path(str(ROOT / ".ci/check_measured.py"))


def test_pages_have_their_scripts_and_the_folders_that_these_import() -> None:
    pages = {page.name: page for page in CHECK["pages"]()}
    assert {"zoo.md#next-to-other-tools", "policy.md", "fitting.md"} < pages.keys()
    assert all(file.is_file() for page in pages.values() for file in page.scripts)
    assert {"calibration", "calibration/lowering"} <= CHECK["folders"](
        ROOT / "report/report.py", set()
    )  # through other modules
    assert CHECK["folders"](ROOT / "lab/claims/ptq4dm_times.py", set()) == {
        "calibration",
        "calibration/lowering",
        "calibration/ranges",
    }


def test_changes_of_a_nested_folder_count_for_that_folder_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECK["changes"].__globals__, "JUDGED", ("a", "a/b", "c"))
    assert CHECK["changes"](["a"]) == ["a/*.py", ":!a/b/*.py"]
    assert CHECK["changes"](["a/b"]) == ["a/b/*.py"]


def test_every_page_of_figures_has_the_commit_that_made_them() -> None:
    """Except the log of trials, in which each row names its commit, and scripts that were deleted."""
    named = {page.name.partition("#")[0] for page in CHECK["pages"]()}
    files = {path.name for path in (ROOT / "lab/measured").glob("*.md")}
    assert files - named == {"README.md"}


def test_a_page_is_old_once_its_folders_have_changed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def git(*arguments: str) -> str:
        if arguments[0] == "rev-list":
            return "3\n" if "fitting/*.py" in arguments else "0\n"
        return "false\n" if arguments[0] == "rev-parse" else "2026-11-21\n"

    monkeypatch.setitem(CHECK["main"].__globals__, "git", git)
    CHECK["main"]()
    printed = capsys.readouterr().out
    (made,) = (page.commit for page in CHECK["pages"]() if page.name == "fitting.md")
    assert f"fitting.md: its figures are of 2026-11-21 ({made}), before 3 commits to fitting" in printed
    assert "zoo.md" not in printed and "engines.md" not in printed  # they import no fitting


@pytest.mark.parametrize(("commit", "counts_as"), [("b", "c"), ("c", "c"), ("a", "a"), ("d", "d")])
def test_figures_between_two_commits_that_are_alike_are_of_the_second(
    commit: str, counts_as: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The history is a to d, and the page names b and c."""

    def git(verb: str, commits: str) -> str:
        first, last = commits.split("..")
        return "".join(each for each in "abcd" if first < each <= last)

    tmp_path.joinpath("README.md").write_text("Nothing differs between\n`b` and `c`.\n")
    monkeypatch.setitem(CHECK["as_late"].__globals__, "git", git)
    monkeypatch.setitem(CHECK["as_late"].__globals__, "PAGES", tmp_path)
    assert CHECK["as_late"](commit) == counts_as


def test_the_page_of_measurements_names_two_commits_that_are_alike() -> None:
    (pair,) = CHECK["UNMOVED"].findall((ROOT / "lab/measured/README.md").read_text())
    assert all(len(commit) >= 8 for commit in pair)


def test_a_part_of_the_history_has_no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CHECK["main"].__globals__, "git", lambda *_: "true\n")
    with pytest.raises(SystemExit, match="git fetch --unshallow"):
        CHECK["main"]()
