"""Calls of two take turns until it is known which one is faster."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain, count, repeat

import numpy as np
import pytest

from fewstep.measure.speed import duel as dueling
from fewstep.measure.speed.duel import Turn, duel


@pytest.fixture
def turns() -> list[str]:
    """The turns taken."""
    return []


@pytest.fixture
def taking(turns: list[str]) -> Callable[..., Turn]:
    """A contender of a name, and the milliseconds of its turns: the last is that of all further ones."""

    def contender(name: str, *milliseconds: float) -> Turn:
        times: Iterator[float] = chain(milliseconds, repeat(milliseconds[-1]))

        def turn() -> float:
            turns.append(name)
            return next(times)

        return turn

    return contender


def test_slow_calls_are_measured_once(
    monkeypatch: pytest.MonkeyPatch, taking: Callable[..., Turn], turns: list[str]
) -> None:
    monkeypatch.setattr(dueling, "SECONDS", -1.0)
    assert duel(taking("a", 10.0), taking("b", 9.0)) == (10.0, 9.0, 0.9)
    assert turns == ["a", "b"]


def test_one_that_is_clearly_slower_is_measured_twice(taking: Callable[..., Turn], turns: list[str]) -> None:
    assert duel(taking("a", 1.6), taking("b", 1.0)).ratio == 1 / 1.6
    assert turns == ["a", "b", "b", "a"]


def test_six_rounds_of_one_order_are_enough(taking: Callable[..., Turn], turns: list[str]) -> None:
    assert duel(taking("a", 1.0), taking("b", 1.1)).ratio == 1.1
    assert len(turns) == 2 * 6


def test_as_many_are_run_as_it_takes_where_the_order_changes(taking: Callable[..., Turn], turns: list[str]) -> None:
    """Another program delays one of the two in three rounds; the ratio of the others decides."""
    assert duel(taking("a", 1.0), taking("b", 1.1, 0.7, 1.1, 0.6, 1.1, 0.9, 1.1)).ratio == 1.1
    assert len(turns) > 2 * 9


def test_two_that_are_equal_are_known_to_be(taking: Callable[..., Turn], turns: list[str]) -> None:
    found = duel(taking("a", 1.0), taking("b", *[1.01, 0.99] * 20))
    assert len(turns) < 2 * 10 and found.ratio == pytest.approx(1.0, abs=0.01)


def test_an_interval_of_the_median_leaves_out_what_chance_may() -> None:
    """So many at each end of sorted rounds, after tables of the sign test at 5 % (two-sided)."""
    assert [dueling._left_out(count) for count in (1, 5, 6, 8, 9, 12, 20)] == [None, None, 0, 0, 1, 2, 5]


def test_a_difference_of_a_tenth_is_found_beside_another_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns take up to three times as long, each for itself: of 100 pairs hardly one has the wrong order."""
    rng, right = np.random.default_rng(0), 0
    clock = count(0.0, 0.4)  # seconds of a round
    monkeypatch.setattr(dueling, "perf_counter", lambda: next(clock))
    delay = partial(rng.choice, [1.0, 1.1, 3.0], p=[0.6, 0.3, 0.1])
    for _ in range(100):
        right += duel(lambda: 10.0 * delay(), lambda: 11.0 * delay()).ratio > 1
    assert right >= 95
