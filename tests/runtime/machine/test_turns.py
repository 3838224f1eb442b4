"""Turns of contenders in rounds."""

from functools import partial

import pytest

from fewstep.runtime.machine.turns import Rounds, median_ratio, so_many, take_turns


def test_each_contender_has_a_turn_a_round_and_the_order_turns_round() -> None:
    taken: list[str] = []

    def turn(name: str) -> float:
        taken.append(name)
        return float(len(taken))

    rounds = take_turns([partial(turn, name) for name in "abc"], so_many(3))
    assert "".join(taken) == "abccbaabc"
    assert rounds == [(1.0, 2.0, 3.0), (6.0, 5.0, 4.0), (7.0, 8.0, 9.0)]


@pytest.mark.parametrize("count", [0, 1])
def test_one_round_is_always_run(count: int) -> None:
    assert take_turns([lambda: 1.0], so_many(count)) == [(1.0,)]


def test_the_rounds_so_far_decide() -> None:
    def until(rounds: Rounds[int]) -> bool:
        return sum(map(sum, rounds)) >= 10

    assert take_turns([lambda: 1, lambda: 2], until) == [(1, 2)] * 4


def test_a_round_that_is_delayed_as_a_whole_moves_no_ratio() -> None:
    rounds = [(1.0, 2.0), (10.0, 20.0), (1.0, 2.0), (1.0, 8.0)]
    assert median_ratio(rounds, 1) == 2.0 and median_ratio(rounds, 0, base=1) == 0.5
