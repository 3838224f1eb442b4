"""benchmarks/races: ratios of contenders, and what holds where one is chosen."""

import argparse
from functools import partial
from pathlib import Path

import pytest

from benchmarks.races import choice, ddpm
from benchmarks.races.turns import Call, Times, in_turns


def counting(start: int) -> Call:
    return partial(sum, range(start))


def test_a_ratio_is_the_median_of_those_of_turns() -> None:
    first = Times((2.0, 4.0, 9.0), (1.0, 1.0, 1.0))
    other = Times((1.0, 2.0, 3.0), (0.5, 0.25, 0.5))
    assert other.against(first) == (2.0, 2.0) and first.against(first) == (1.0, 1.0)


def test_each_contender_has_a_time_of_each_turn() -> None:
    found = in_turns({"few": partial(counting, 10), "many": partial(counting, 10**6)}, rounds=3, seconds=0.0)
    assert list(found) == ["few", "many"] and {len(each.wall) for each in found.values()} == {3}
    wall, processor = found["few"].against(found["many"])
    assert wall > 10 and processor > 10


@pytest.mark.parametrize("slower, holds", [(1.02, True), (1.05, False)])
def test_a_choice_holds_within_three_percent(slower: float, holds: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = [{"backend": name, "threads": 0, "milliseconds": 1.0} for name in ("chosen", "other")]
    timed[1]["spinning"] = False
    timed.append({"backend": "missing", "threads": 0, "milliseconds": None})
    found = {"chosen": Times((slower,), (1.0,)), "other without spinning": Times((1.0,), (1.0,))}
    monkeypatch.setattr(choice, "chosen", lambda options: timed)
    monkeypatch.setattr(choice, "in_turns", lambda openers, rounds, seconds: {name: found[name] for name in openers})
    given = argparse.Namespace(bundle=Path("bundle"), body="int8", rows=2, rounds=1, turn_seconds=0.1)
    assert choice.trial(given)[0] is holds


def test_peers_are_beside_float32_and_diffusers() -> None:
    slow, fast = Times((0.04,), (0.04,)), Times((0.01,), (0.02,))
    lines = list(ddpm.rows({ddpm.FIRST: slow, "int8": fast, ddpm.DIFFUSERS: slow}, 8))
    assert lines[3] == "| int8 | 8 | 10.0 | 20.0 | 4.00 | 2.00 | 4.00 | 2.00 |"
