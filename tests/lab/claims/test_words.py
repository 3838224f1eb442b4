"""Cells of systems.md that no line decides: one rule for each word, for all rows. Commits that pages name exist."""

import re
import subprocess
from pathlib import Path

import msgspec
import pytest

from lab.claims import claim_lines, systems
from lab.claims.authors_baselines import BETTER_BUT_REFUSED
from lab.claims.claim import MORE_STEPS
from lab.claims.claim_lines import Gain, contains_its_control
from lab.claims.headlines import headline_table
from lab.claims.settings import MODELS
from tests.lab.claims.test_claims import ROOT, line
from zoo.members import BY_NAME

KEPT, NOTES = claim_lines.load_kept(), systems.notes(systems.NOTES.read_text())
ROWS = {systems.name_of(row): row for row in systems.rows(systems.PAGE.read_text())}
PAGES = [ROOT / "lab" / name for name in ("trials.md", "system_notes.md", "systems.md", "compositions.md")]
NONE = "None of its own"
NETWORKS = re.compile("|".join({*MODELS, *BY_NAME, "zoo/", r"measured/\w+\.md", r"trials\.md"}))
UNTRAINED = re.compile(r"No trained (instance|network)\b|No network was trained|Nothing of its own runs")
JUDGED_BY_HAND = [
    name
    for name, row in ROWS.items()
    if row[systems.HOLDS].partition(":")[0] in ("yes", "in part", "no") and not systems.lines_of(name, KEPT.lines)
]


def part_of(note: str, name: str) -> str:
    """Return a part of a note; "" if it has none."""
    match = re.search(rf"^- \*{name}\*: (.*)$", note, re.MULTILINE)
    return match[1] if match else ""


def rows_of(*states: str) -> list[str]:
    return [name for name, row in ROWS.items() if row[systems.STATE] in states]


@pytest.mark.parametrize("name", rows_of("works", "part", "checkpoint"))
def test_what_is_here_names_code_that_no_other_system_has(name: str) -> None:
    code = part_of(NOTES[name], "Code")
    assert code and not code.startswith(NONE)
    assert [system for system in NOTES if part_of(NOTES[system], "Code") == code] == [name]
    if ROWS[name][systems.STATE] == "part":
        assert "`" in code or "](" in code


def test_what_has_no_code_of_its_own_is_missing_or_out() -> None:
    """EluCD and TSDiff, and the caches, of which DeepCache is left."""
    without = {name for name in NOTES if part_of(NOTES[name], "Code").startswith(NONE)}
    assert without <= {*rows_of("missing", "out")}
    assert {"EluCD", "TSDiff", "BAC", "CacheQuant", "ECAD", "ProfilingDiT", "SADA"} <= {*rows_of("out")} & without


@pytest.mark.parametrize("name", rows_of("works"))
def test_what_works_ran_on_a_trained_network(name: str) -> None:
    """It has lines, or its note names the network. Exact denoisers alone make a checkpoint."""
    assert not UNTRAINED.search(NOTES[name])
    assert systems.lines_of(name, KEPT.lines) or NETWORKS.search(NOTES[name])


@pytest.mark.parametrize("name", JUDGED_BY_HAND)
def test_a_verdict_without_lines_has_a_figure(name: str) -> None:
    figures = part_of(NOTES[name], "Figures")
    assert re.search(r"\d", figures) and not figures.startswith(("No ", "Nothing"))


def test_a_control_that_is_better_by_a_refused_figure_leaves_the_worth_open() -> None:
    """By a direction that is stored, and on a page whose other lines pay."""
    wrong = {(direction.network, direction.few) for direction in KEPT.directions if direction.is_wrong}
    assert {*BETTER_BUT_REFUSED.values()} <= wrong
    for name in BETTER_BUT_REFUSED:
        assert systems.worth(systems.lines_of(name, KEPT.lines)) == "pays in part"
        assert ROWS[name][systems.WORTH] == "not decided"


def test_a_search_that_contains_its_control_decides_nothing() -> None:
    """The best of four samples, one of which is the control's, is never worse."""
    won = msgspec.structs.replace(
        line(Gain(1.0, 0.1), None), system="noise search", control=MORE_STEPS, evaluations=40, plain_evaluations=10
    )
    other = msgspec.structs.replace(won, model="cifar10", plain_evaluations=20)
    assert contains_its_control(won) and not contains_its_control(other)
    assert (systems.holds([won]), systems.holds([won, other])) == ("", "yes: cifar10")
    assert "fashion_mnist" not in headline_table([won]) and "| cifar10 |" in headline_table([won, other])
    lost = msgspec.structs.replace(other, gain=Gain(-1.0, 0.1))
    assert systems.worth([won, lost]) == "does not pay"


def test_the_titles_without_a_system_have_a_line_each() -> None:
    _, _, section = systems.NOTES.read_text().partition(f"## {systems.OTHERS}\n")
    titles = re.findall(r"^- ([\w ]+): .+\.$", section, re.MULTILINE)
    assert titles == sorted(titles) and len(titles) == section.count("\n- ") > 0
    assert not {*titles} & {*NOTES}


def test_commits_that_pages_name_are_in_the_history() -> None:
    if not (ROOT / ".git").exists() or _git("rev-parse", "--is-shallow-repository") == "true\n":
        pytest.skip("this folder is not a clone with a history")
    named = {commit for page in PAGES for commit in _commits(page)}
    asked = "".join(f"{commit}^{{commit}}\n" for commit in sorted(named))
    answers = _git("cat-file", "--batch-check", given=asked).splitlines()
    assert len(named) > 50 and [answer for answer in answers if " commit " not in answer] == []


def _commits(page: Path) -> list[str]:
    """Return what stands in the last cell of a row, or after the word commit."""
    text = re.sub(r"\s+", " ", page.read_text())
    rows = re.findall(r"^\|.*\| ([0-9a-f]{7,8}) \|$", page.read_text(), re.MULTILINE)
    return [*rows, *re.findall(r"\bcommits? `([0-9a-f]{7,8})[`^]", text)]


def _git(*arguments: str, given: str = "") -> str:
    command = ["git", *arguments]
    return subprocess.run(command, cwd=ROOT, input=given, check=True, capture_output=True, text=True).stdout
