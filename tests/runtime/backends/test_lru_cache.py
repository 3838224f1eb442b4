"""The most recently used values."""

import pytest

from fewstep.runtime.backends.lru_cache import LruCache


def test_the_value_that_was_used_longest_ago_gives_way() -> None:
    made: list[int] = []

    def use(number: int) -> int:
        return recent.get_or_make(number, lambda: (made.append(number), 10 * number)[1])

    recent: LruCache[int, int] = LruCache(2)
    assert [use(number) for number in (1, 2, 1, 3, 1, 2)] == [10, 20, 10, 30, 10, 20]
    assert made == [1, 2, 3, 2] and list(recent) == [1, 2]


def test_a_value_that_cannot_be_made_costs_no_other() -> None:
    recent: LruCache[int, float] = LruCache(1)
    assert recent.get_or_make(1, lambda: 1.0) == 1
    with pytest.raises(ZeroDivisionError):
        recent.get_or_make(0, lambda: 1 / 0)
    assert list(recent) == [1]
