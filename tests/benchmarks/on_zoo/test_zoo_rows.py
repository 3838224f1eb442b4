"""zoo_rows.py: a row for each engine, against the best tool of the same operations; kept, and shown."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from benchmarks.quantization.outcome import Quality
from fewstep.plans.errors import UserError

FOLDER = Path(__file__).parents[3] / "benchmarks"
TOOLS = runpy.run_path(str(FOLDER / "on_zoo/zoo_tools.py"))  # which knows where its parts lie
ROWS = TOOLS["zoo_rows"]
DATA = Path(__file__).parents[3] / "docs/measured"


def quality(mean: float, p5: float, ops: str = "ab") -> Any:
    return Quality(mean, p5, p5 - 1, 96, 100, tuple(ops), 0.0312)


def outcome(*rows: Any) -> Any:
    return TOOLS["Outcome"]("dit_flow", "dpmpp_2m:8", 8, None, 64, 64, 8, "cpu", ("fewstep 1",), rows, 1000, "0123abcd")


def row(name: str, found: Any, **others: Any) -> Any:
    return ROWS.Row("onnxruntime", name, "" if name == "fewstep" else name, found, **others)


def measured(*rows: Any) -> Any:
    (found,) = ROWS.measured(outcome(*rows))
    return found


def test_the_best_of_the_same_operations_is_compared() -> None:
    rows = (
        row("fewstep", quality(45.0, 40.0)),
        row("defaults", quality(42.0, 39.5)),
        row("b", quality(43.0, 37.5)),
        row("less", quality(60.0, 60.0, "a")),  # in float where ours is in int8
        row("failed", None, reason="no memory"),
    )
    found = measured(*rows)
    assert ROWS.line(found) == (
        "| dit_flow | 8 | 64 from 1000 | onnxruntime | 45.0 / 40.0 | 96.0 % | 3.1 %"
        " | 43.0 / 37.5 (b) | +2.0 / +2.5 | +3.0 | 10 dB | 0123ab |"
    )
    assert [each.same for each in found.others] == [True, True, False, False]
    assert found.others[3].reason == "no memory"
    without = measured(*(each for each in rows if each.setting != "defaults"))
    assert ROWS.line(without).endswith(" | 43.0 / 37.5 (b) | +2.0 / +2.5 |  | none | 0123ab |")


@pytest.mark.parametrize(
    ("mean", "p5", "missed"),
    [(47.0, 42.0, "none"), (46.9, 42.0, "2 dB"), (47.0, 41.9, "2 dB"), (46.4, 41.9, "2 dB, 10 dB")],
)
def test_the_bars_hold_for_the_mean_the_tail_and_above_defaults(mean: float, p5: float, missed: str) -> None:
    rows = (row("fewstep", quality(mean, p5)), row("a", quality(45.0, 40.0)), row("defaults", quality(36.5, 20.0, "a")))
    assert ROWS.line(measured(*rows)).endswith(f" | {missed} | 0123ab |")


def test_an_engine_without_an_equal_says_so() -> None:
    found = measured(row("fewstep", quality(45.0, 40.0)), row("less", quality(44.0, 40.0, "a")))
    assert ROWS.line(found).endswith(" | 96.0 % | 3.1 % | none |  |  | no equal | 0123ab |")


def test_a_later_measurement_takes_the_place_of_the_same_row(tmp_path: Path) -> None:
    first = measured(row("fewstep", quality(45.0, 40.0)), row("a", quality(42.0, 37.0)))
    again = measured(row("fewstep", quality(45.0, 40.0)), row("b", quality(43.0, 39.0)))
    (both,) = ROWS.joined([first], [again])
    assert [each.name for each in both.others] == ["a", "b"]
    assert (both.lead.mean, both.lead.p5) == (2.0, 1.0)
    changed = replace(again, code="of other code")
    assert ROWS.joined([first], [changed]) == (changed,)
    other_seeds = replace(again, first=0)
    kept = tmp_path / "zoo.json"
    assert ROWS.read(kept) == ()
    ROWS.write(ROWS.joined([first], [other_seeds]), kept)
    assert ROWS.read(kept) == (other_seeds, first)


def test_the_page_shows_every_row_that_is_kept() -> None:
    rows = ROWS.read()
    assert len(rows) >= 25 and ROWS.table(rows) in (DATA / "zoo.md").read_text()
    for each in rows:
        assert each.denoiser in TOOLS["BY_NAME"] and each.ours.p5 <= each.ours.mean


def test_a_row_of_another_form_is_told_in_one_line(tmp_path: Path) -> None:
    kept = tmp_path / "zoo.json"
    kept.write_text('[{"denoiser": "dit_flow"}]')
    with pytest.raises(UserError, match=r"zoo.json has a row of another form: .*steps"):
        ROWS.read(kept)
