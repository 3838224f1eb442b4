"""The table of large denoisers on a CPU."""

from functools import partial
from pathlib import Path

from lab.races.large import FIRST, STEPS, Turn, rows
from lab.races.large_contenders import Way

OTHER = "another"


def table(first: str = FIRST) -> list[list[str]]:
    """Two contenders in two rounds; the machine is twice as slow in the second one."""
    ways = {name: Way(partial(lambda: lambda: None), (Path(__file__),)) for name in (first, OTHER)}
    turns = {
        first: [Turn(load=1.0, first=2.0, call=0.5, peak=100.0), Turn(load=1.0, first=2.0, call=1.0, peak=90.0)],
        OTHER: [Turn(load=3.0, first=1.0, call=0.25, peak=50.0), Turn(load=3.0, first=1.0, call=0.5, peak=50.0)],
    }
    return [line.strip("| ").split(" | ") for line in rows(turns, ways)][2:]


def test_speed_is_that_of_the_least_turns() -> None:
    assert [row[1:3] for row in table()] == [["500", "1.00"], ["250", "2.00"]]


def test_speed_is_relative_to_the_first_row_without_a_body_for_onnxruntime() -> None:
    assert [row[2] for row in table("float32")] == ["1.00", "2.00"]


def test_a_first_sample_is_a_load_and_four_calls() -> None:
    assert Turn(load=1.0, first=2.0, call=0.5, peak=0.0).sample == 1.0 + 2.0 + (STEPS - 1) * 0.5


def test_memory_is_the_most_of_all_rounds_in_mb() -> None:
    assert table()[0][3] == f"{100 * 2**20 / 1e6:.0f}"
