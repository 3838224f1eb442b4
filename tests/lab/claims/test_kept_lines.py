"""The stored lines of claims, and their page."""

from pathlib import Path

import msgspec
import pytest

from lab.claims import claim_lines
from lab.claims.claim_lines import Gain, make_page
from tests.lab.claims.test_claims import line


def test_a_line_is_kept_in_the_place_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_lines, "KEPT", tmp_path / "claims.json")
    first, second = line(Gain(1.0, 0.4), None), line(Gain(0.5, 0.1), Gain(0.5, 0.1))
    claim_lines.keep(first)
    claim_lines.keep(second)
    assert claim_lines.load_kept().lines == (second,)
    page = make_page(claim_lines.load_kept())
    assert "+0.500 ± 0.100; as long 1.500, 9 in 10 ms, +0.500 ± 0.100; pays |" in page
    assert max(len(text) for text in page.split("\n") if not text.startswith("|")) <= 100


def test_a_line_of_another_machine_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_lines, "KEPT", tmp_path / "claims.json")
    monkeypatch.setattr(claim_lines, "machine", lambda: "old, 2 cores; numpy 1")
    first = line(Gain(1.0, 0.4), None)
    claim_lines.keep(first)
    monkeypatch.setattr(claim_lines, "machine", lambda: "new, 4 cores; numpy 2")
    second = msgspec.structs.replace(first, control="more steps")
    claim_lines.keep(second)
    kept = claim_lines.load_kept()
    assert [each.machine for each in kept.lines] == ["", "new, 4 cores"]
    page = make_page(kept)
    assert "Machine of all but [these lines](#lines-of-another-machine): old, 2 cores. numpy 1." in page
    assert page.endswith("## Lines of another machine\n\nnew, 4 cores:\n\n- SVDD: more steps\n")


def test_the_page_names_the_machine_of_which_all_lines_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_lines, "KEPT", tmp_path / "claims.json")
    first = line(Gain(1.0, 0.4), None)
    lines = [first, msgspec.structs.replace(first, control="more steps")]
    for machine in ("old, 2 cores; numpy 1", "new, 4 cores; numpy 2"):
        monkeypatch.setattr(claim_lines, "machine", lambda machine=machine: machine)
        for each in lines:
            claim_lines.keep(each)
    assert claim_lines.load_kept() == claim_lines.Kept("new, 4 cores; numpy 2", tuple(lines))


def test_a_refused_line_is_dropped_and_others_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim_lines, "KEPT", tmp_path / "claims.json")
    first = line(Gain(1.0, 0.1), None)
    second = msgspec.structs.replace(first, control="more steps")
    claim_lines.keep(first)
    claim_lines.keep(second)
    claim_lines.drop((first.model, first.system, first.figure, first.control))
    assert claim_lines.load_kept().lines == (second,)
