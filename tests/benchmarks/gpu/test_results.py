"""Lines of a run: written lines are read again, and a line that was cut off is left out."""

from pathlib import Path

import pytest

from benchmarks.gpu.results import REHEARSAL, DenoiserRow, Machine, PartEnd, Results, Timing, read_results
from fewstep.plans.errors import UserError
from tests.refusals import refuses

MACHINE = Machine("a GPU", {"torch": "2.11.0"}, "2026-11-27")
ROW = DenoiserRow("cifar10", "torch", "float16", 70.5, 60.25, (Timing(1, 2.5, 3.0), Timing(8, 4.0, 4.5)))


def written(folder: Path) -> Path:
    results = Results(folder / "deep" / "results.jsonl")
    for each in (MACHINE, ROW, PartEnd("torch", 2.0, "the time was over")):
        results.add(each)
    return results.file


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    assert list(read_results([written(tmp_path)])) == [MACHINE, ROW, PartEnd("torch", 2.0, "the time was over")]


def test_results_of_an_earlier_run_stay(tmp_path: Path) -> None:
    Results(written(tmp_path)).add(ROW)
    assert list(read_results([tmp_path / "deep" / "results.jsonl"]))[-2:] == [
        PartEnd("torch", 2.0, "the time was over"),
        ROW,
    ]


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(file.read_bytes()[:-4])
    assert list(read_results([file])) == [MACHINE, ROW]


def test_a_line_of_another_form_is_named(tmp_path: Path) -> None:
    file = written(tmp_path)
    file.write_bytes(b'{"kind":"unknown"}\n' + file.read_bytes())
    with pytest.raises(UserError, match="line 1: .*unknown"):
        list(read_results([file]))


def test_the_lines_of_a_rehearsal_are_refused(tmp_path: Path) -> None:
    """On a page they would replace the times of a GPU."""
    file = written(tmp_path)
    Results(file).add(Machine(REHEARSAL, {}, "2026-11-28"))
    with refuses("line 4", "leave out the file"):
        list(read_results([file]))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read .*none.jsonl: No such file"):
        list(read_results([tmp_path / "none.jsonl"]))
