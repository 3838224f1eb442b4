"""rows.py: one row per engine, next to the best tool with the same operations. Rows are stored, and shown on three
pages.
"""

from dataclasses import replace as replaced
from pathlib import Path

import pytest
from msgspec.structs import replace

from benchmarks.markdown import part_of
from benchmarks.quantization import result_rows
from benchmarks.quantization.compare import ALL
from benchmarks.quantization.contenders import TOOLS, Contender
from benchmarks.quantization.distances import EXTRACTORS, HEADER, line
from benchmarks.quantization.judge_bodies import Judged, Quality
from benchmarks.quantization.result_rows import Measured, cells, join_rows, make_row
from benchmarks.result_store import read_rows, write_rows
from fewstep.measure.distances.features import SHIPPED
from fewstep.measure.results import Distance
from tests.refusals import refuses


def quality(mean: float, p5: float, ops: str = "ab") -> Quality:
    return Quality(mean, p5, p5 - 1, 96, 100, tuple(ops), 0.0312)


def judgement_of(setting: str, found: Quality | None, **others: str) -> Judged:
    tool = None if setting == "fewstep" else replaced(TOOLS["ort_static"], title=setting)
    return Judged(Contender("onnxruntime", tool, setting), found, **others)


def row(ours: Quality, *others: Judged, code: str = "0123abcd") -> Measured:
    return make_row("dit_flow", 8, range(1000, 1064), [judgement_of("fewstep", ours), *others], code, ("fewstep 1",))


def test_the_best_of_the_same_operations_is_compared() -> None:
    others = (
        judgement_of("defaults", quality(42.0, 39.5)),
        judgement_of("b", quality(43.0, 37.5)),
        judgement_of("less", quality(60.0, 60.0, "a")),  # in float where ours is in int8
        judgement_of("failed", None, reason="no memory"),
    )
    found = row(quality(45.0, 40.0), *others)
    facts = ["dit_flow", "8", "64 from 1000", "onnxruntime", "45.0 / 40.0", "96.0 %", "3.1 %"]
    assert cells(found) == [*facts, "43.0 / 37.5 (b, b)", "+2.0 / +2.5", "+3.0", "10 dB", "0123ab"]
    assert [each.same for each in found.others] == [True, True, False, False]
    assert found.others[3].reason == "no memory"
    assert cells(row(quality(45.0, 40.0), *others[1:]))[-3:] == ["", "none", "0123ab"]
    assert cells(row(quality(45.0, 40.0), *others[2:]))[7:] == ["none", "", "", "no equal", "0123ab"]
    *_, failed, _, _ = result_rows.settings([found]).split("\n")
    assert failed == "| onnxruntime | failed, failed | failed: no memory |  |  |"


@pytest.mark.parametrize(
    ("mean", "p5", "missed"),
    [(47.0, 42.0, "none"), (46.9, 42.0, "2 dB"), (47.0, 41.9, "2 dB"), (46.4, 41.9, "2 dB, 10 dB")],
)
def test_the_bars_hold_for_the_mean_the_tail_and_above_defaults(mean: float, p5: float, missed: str) -> None:
    others = (judgement_of("a", quality(45.0, 40.0)), judgement_of("defaults", quality(36.5, 20.0, "a")))
    assert cells(row(quality(mean, p5), *others))[-2] == missed


def test_a_later_measurement_takes_the_place_of_the_same_row(tmp_path: Path) -> None:
    first = row(quality(45.0, 40.0), judgement_of("a", quality(42.0, 37.0)))
    again = row(quality(45.0, 40.0), judgement_of("b", quality(43.0, 39.0)))
    (both,) = join_rows([first], [again])
    assert [each.name for each in both.others] == ["a, a", "b, b"]
    assert both.lead is not None and (both.lead.mean, both.lead.p5) == (2.0, 1.0)
    changed = replace(again, code="of other code")
    assert join_rows([first], [changed]) == (changed,)
    other_seeds, kept = replace(again, first=0), tmp_path / "zoo.json"
    assert read_rows(kept, Measured) == []
    write_rows(kept, join_rows([first], [other_seeds]))
    assert read_rows(kept, Measured) == [other_seeds, first]
    kept.write_text('[{"denoiser": "dit_flow"}]')
    with refuses(("zoo.json has a row of another form", "steps")):
        read_rows(kept, Measured)


def test_the_pages_show_every_row_that_is_kept() -> None:
    known = read_rows(result_rows.KEPT, Measured)
    for (page, part), table in result_rows.tables(known).items():
        assert part_of((result_rows.ROOT / page).read_text(), part) == table and table.count("\n") > 6
    assert {each.denoiser for each in known} <= {member.name for member in ALL}
    assert all(each.ours.p5 <= each.ours.mean for each in known)


def test_distances_stand_next_to_the_floor_for_data_that_an_extractor_knows() -> None:
    found = Distance("float32", 256, 256, 5.25, 5.0, 0.25, -0.1, 0.6, 5.0, False)
    made = line("dit_flow", 8, found)
    assert made == ("dit_flow", "8", "256", "5.00", "5.25", "+0.25", "-0.10 to +0.60") and len(made) == len(HEADER)
    assert {*EXTRACTORS.values()} == {each.name for each in SHIPPED}
    assert {*EXTRACTORS} < {member.name for member in ALL}
