"""Time contenders in rounds. Other programs delay all contenders of a round equally, so ratios within a round are
fair."""

from collections.abc import Callable, Sequence
from statistics import median
from typing import TypeVar

T = TypeVar("T")
Rounds = list[tuple[T, ...]]  # [rounds][contenders]: the result of each turn


def take_turns(contenders: Sequence[Callable[[], T]], until: Callable[[Rounds[T]], bool]) -> Rounds[T]:
    """Run rounds in which each contender has a turn. The order of the contenders is reversed in every second round.
    Returns, for each round, the results of all contenders.

    until: returns whether the rounds so far are enough. It is called after each round, so at least one round is run.
    """
    rounds: Rounds[T] = []
    places = range(len(contenders))
    while not rounds or not until(rounds):
        turns = {place: contenders[place]() for place in (reversed(places) if len(rounds) % 2 else places)}
        rounds.append(tuple(turns[place] for place in places))
    return rounds


def stop_after_rounds(count: int) -> Callable[[Rounds[T]], bool]:
    """Return an `until` for a fixed number of rounds."""
    return lambda rounds: len(rounds) >= count


def median_ratio(rounds: Rounds[float], place: int, base: int = 0) -> float:
    """Return the median, over rounds, of the time of contender number `place` divided by that of contender number
    `base`."""
    return median(each[place] / each[base] for each in rounds)
