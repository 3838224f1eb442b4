"""Tables of caching, from rows whose lines are known."""

from typing import Any

from benchmarks.caching.judge import tables


def row(name: str, base: str, taken: str, cost: float, decibels: float) -> dict[str, Any]:
    return {"name": name, "base": base, "taken": taken, "T": cost, "dB": decibels, "error": 0.5}


def test_a_schedule_stands_beside_plans_of_its_time() -> None:
    plain = [row("no caching", "ddim:4", "", 4, 20.0), row("no caching", "ddim:8", "", 8, 30.0)]
    fitted = [row("no caching", "fitted:4", "", 4, 26.0)]
    cached = row("every 2", "ddim:8", "1, 3, 5, 7", 5.0, 21.5)
    without, schedules = tables([*plain, *fitted, cached]).split("\n\n")
    assert without.splitlines()[2:] == [
        "| `ddim:4` | 4 | 20.0 ± 0.5 |", "| `ddim:8` | 8 | 30.0 ± 0.5 |", "| `fitted:4` | 4 | 26.0 ± 0.5 |",
    ]  # fmt: skip
    assert schedules.splitlines()[2:] == ["| every 2 | `ddim:8` | 1, 3, 5, 7 | 5.00 | 21.5 ± 0.5 | 22.5 | – |"]


def test_of_many_steps_a_cell_has_the_first_and_the_last() -> None:
    plain = row("no caching", "ddim:8", "", 8, 30.0)
    assert "| 1, 3, 5, ..., 13 |" in tables([plain, row("every 2", "ddim:14", "1, 3, 5, 7, 9, 11, 13", 9, 21.5)])
