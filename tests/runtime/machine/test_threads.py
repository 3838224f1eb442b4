"""Work beside other work keeps its order, its results and its errors."""

import threading
from collections.abc import Iterator

import pytest

from fewstep.runtime.machine.threads import one_after_another, side_by_side, while_the_next_comes


def test_results_come_in_the_order_of_their_items() -> None:
    assert side_by_side(lambda n: n * n, range(100)) == [n * n for n in range(100)]


def test_a_result_comes_before_those_behind_it_are_made() -> None:
    is_asked = threading.Event()
    results = one_after_another(lambda n: n if n < 5 else is_asked.wait(10), range(10))
    assert [next(results) for _ in range(5)] == [0, 1, 2, 3, 4]
    is_asked.set()
    assert list(results) == [True] * 5


def test_the_first_error_in_the_order_of_items_is_raised() -> None:
    def work(n: int) -> None:
        if n >= 3:
            raise ValueError(n)

    with pytest.raises(ValueError, match="^3$"):
        side_by_side(work, range(10))


def test_work_goes_on_while_the_next_item_is_made_in_order_and_no_further_ahead() -> None:
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

    while_the_next_comes(work, items())
    assert done == [0, 1, 2, 3]


def test_what_work_raises_ends_it() -> None:
    seen: list[int] = []

    def work(n: int) -> None:
        seen.append(n)
        if n == 1:
            raise ValueError("one")

    with pytest.raises(ValueError, match="one"):
        while_the_next_comes(work, iter(range(100)))
    assert seen == [0, 1]


def test_what_items_raise_is_raised_after_the_work_before_it() -> None:
    seen: list[int] = []

    def items() -> Iterator[int]:
        yield 0
        raise KeyError("gone")

    with pytest.raises(KeyError):
        while_the_next_comes(seen.append, items())
    assert seen == [0]
