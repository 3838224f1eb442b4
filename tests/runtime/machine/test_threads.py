"""Work in parallel keeps its order, its results and its errors; contenders take turns in rounds."""

import threading
from collections.abc import Iterator
from functools import partial

import pytest

from fewstep.runtime.machine.threads import imap_threads, map_threads, run_with_prefetch
from fewstep.runtime.machine.turns import Rounds, median_ratio, stop_after_rounds, take_turns


def test_results_come_in_the_order_of_their_items() -> None:
    assert map_threads(lambda n: n * n, range(100)) == [n * n for n in range(100)]


def test_a_result_comes_before_those_after_it_are_made() -> None:
    is_asked = threading.Event()
    results = imap_threads(lambda n: n if n < 5 else is_asked.wait(10), range(10))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    is_asked.set()
    assert list(results) == [True] * 5


def test_the_first_error_in_the_order_of_items_is_raised() -> None:
    def work(n: int) -> None:
        if n >= 3:
            raise ValueError(n)

    with pytest.raises(ValueError, match="^3$"):
        map_threads(work, range(10))


def test_work_goes_on_while_the_next_item_is_made_in_order_and_no_further() -> None:
    done: list[int] = []
    is_made = [threading.Event() for _ in range(5)]

    def items() -> Iterator[int]:
        for n in range(4):
            assert done[: n - 1] == list(range(n - 1)), "an item was made while two were held"
            is_made[n].set()
            yield n
        is_made[4].set()

    def work(n: int) -> None:
        assert is_made[n + 1].wait(10), "the next item was not made meanwhile"
        done.append(n)

    run_with_prefetch(work, items())
    assert done == [0, 1, 2, 3]


def test_what_work_raises_ends_it() -> None:
    seen: list[int] = []

    def work(n: int) -> None:
        seen.append(n)
        if n == 1:
            raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        run_with_prefetch(work, iter(range(100)))
    assert seen == [0, 1]


def test_what_items_raise_is_raised_after_the_work_before_it() -> None:
    seen: list[int] = []

    def items() -> Iterator[int]:
        yield 0
        raise KeyError("gone")

    with pytest.raises(KeyError):
        run_with_prefetch(seen.append, items())
    assert seen == [0]


def test_each_contender_has_a_turn_a_round_and_the_order_turns_round() -> None:
    taken: list[str] = []

    def turn(name: str) -> float:
        taken.append(name)
        return float(len(taken))

    rounds = take_turns([partial(turn, name) for name in "abc"], stop_after_rounds(3))
    assert "".join(taken) == "abccbaabc"
    assert rounds == [(1.0, 2.0, 3.0), (6.0, 5.0, 4.0), (7.0, 8.0, 9.0)]


@pytest.mark.parametrize("count", [0, 1])
def test_one_round_is_always_run(count: int) -> None:
    assert take_turns([lambda: 1.0], stop_after_rounds(count)) == [(1.0,)]


def test_the_rounds_so_far_decide() -> None:
    def until(rounds: Rounds[int]) -> bool:
        return sum(map(sum, rounds)) >= 10

    assert take_turns([lambda: 1, lambda: 2], until) == [(1, 2)] * 4


def test_a_round_that_is_delayed_as_a_whole_moves_no_ratio() -> None:
    rounds = [(1.0, 2.0), (10.0, 20.0), (1.0, 2.0), (1.0, 8.0)]
    assert median_ratio(rounds, 1) == 2.0 and median_ratio(rounds, 0, base=1) == 0.5
