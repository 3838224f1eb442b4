"""Contenders that are timed in rounds: other programs delay all of a round alike, so ratios within rounds count."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")
Rounds = list[tuple[T, ...]]  # [rounds][contenders]: what each turn gave


def take_turns(contenders: Sequence[Callable[[], T]], until: Callable[[Rounds[T]], bool]) -> Rounds[T]:
    """Rounds in which each contender has a turn: in order in one round, in reverse in the next.

    until: whether the rounds so far are enough. It is asked after each round, so at least one is run.
    """
    rounds: Rounds[T] = []
    places = range(len(contenders))
    while not rounds or not until(rounds):
        turns = {place: contenders[place]() for place in (reversed(places) if len(rounds) % 2 else places)}
        rounds.append(tuple(turns[place] for place in places))
    return rounds


def stop_after_rounds(count: int) -> Callable[[Rounds[T]], bool]:
    """`until` for a number of rounds."""
    return lambda rounds: len(rounds) >= count


def median_ratio(rounds: Rounds[float], place: int, base: int = 0) -> float:
    """The median over rounds of a contender's time divided by another's."""
    return median(each[place] / each[base] for each in rounds)
