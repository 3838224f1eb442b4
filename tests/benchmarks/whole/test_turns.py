"""benchmarks/whole: contenders of several environments in turns, and the table of their laps."""

import sys
from pathlib import Path

import pytest

from benchmarks.markdown import part_of
from benchmarks.whole import __main__ as whole
from benchmarks.whole.contenders.laps import peak_bytes

FAST, SLOW = (
    {"load": 1.0, "first": 4.0, "second": 5.0, "second processors": seconds, "peak": 2.5e9, "stored": 1.25e9}
    for seconds in (2.0, 3.0)
)


def test_a_contender_is_a_name_a_python_a_script_and_a_path() -> None:
    contender = whole.parse_contender("a tool, int8=env/bin/python tool.py 'a folder' int8")
    assert contender == whole.Contender("a tool, int8", "env/bin/python", "tool.py", ["a folder", "int8"])


def test_ratios_are_those_of_the_same_round() -> None:
    rows = whole.make_table({"a": [FAST, SLOW], "b": [SLOW, {**FAST, "second processors": 9.0}]}).splitlines()
    assert rows[2] == "| a | 1.0 | 4.0 | 5.0 | 2.5 | 1.00 | 2.50 | 1.25 |"
    assert rows[3] == "| b | 1.0 | 4.0 | 5.0 | 6.0 | 2.25 | 2.50 | 1.25 |"


def test_the_second_round_is_in_reverse_order(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def run(contender: whole.Contender) -> whole.Laps:
        order.append(contender.name)
        return FAST

    monkeypatch.setattr(whole.Contender, "run", run)
    contenders = [whole.Contender(name, "python", "tool.py", ["path"]) for name in "ab"]
    assert {name: len(laps) for name, laps in whole.measure_in_turns(contenders, 2).items()} == {"a": 2, "b": 2}
    assert order == ["a", "b", "b", "a"]


def test_a_contender_that_fails_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(contender: whole.Contender) -> whole.Laps:
        if contender.name == "b":
            raise RuntimeError("b: no memory")
        return FAST

    monkeypatch.setattr(whole.Contender, "run", run)
    assert list(whole.measure_in_turns([whole.Contender(name, "python", "t.py", ["p"]) for name in "ab"], 2)) == ["a"]
    assert capsys.readouterr().err.count("b: no memory") == 2


def test_the_bytes_of_a_folder_are_those_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "part").mkdir()
    for name, size in (("a.bin", 3), ("part/b.bin", 4)):
        (tmp_path / name).write_bytes(bytes(size))
    assert whole.Contender("a", "python", "tool.py", [str(tmp_path)]).stored_bytes() == 7


def test_a_contender_that_fails_is_named_with_its_last_line() -> None:
    with pytest.raises(RuntimeError, match="broken: .*no_such_tool"):
        whole.Contender("broken", sys.executable, "no_such_tool.py", ["path"]).run()


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is of Linux")
def test_the_peak_includes_what_the_process_had() -> None:
    held = bytearray(b"1" * 30_000_000)
    assert peak_bytes() > len(held)


@pytest.mark.parametrize("part", ["sd15", "sd15-calibrated", "sdxl"])
def test_the_page_has_a_place_for_the_table_of_a_pipeline(part: str) -> None:
    assert "|" in part_of(whole.PAGE.read_text(), f"{whole.SCRIPT} --page {part}")
