"""The faster of two contenders on a machine that may do other things too: they take turns until it is sure.

Other programs delay both of a round alike, or one in this round and the other in the next: what decides is the median
over rounds of the ratio of both. Rounds end when an interval of this median (binomial, so of any distribution) has one
of them faster, or has both within a few percent.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import NamedTuple

from fewstep.runtime.machine.turns import Rounds, median_ratio, take_turns

Turn = Callable[[], float]  # the milliseconds of a call, as one turn has them

CLEAR = 1.5  # times as slow: such a call is given up
LEAST_ROUNDS = 2  # rounds before that
EQUAL = 0.02  # of the logarithm of times: so near, it does not matter which is chosen
DOUBT = 0.05  # the chance that the median is outside its interval
DUEL_SECONDS = 8.0  # after which no round begins; one is always run


class Duel(NamedTuple):
    """Milliseconds of a call of each, and how many times as long the second one takes, by rounds."""

    first: float
    second: float
    ratio: float


def run_duel(first: Turn, second: Turn) -> Duel:
    """The times of two contenders, whose calls take turns until it is known which is faster. Each has run before."""
    last = perf_counter() + DUEL_SECONDS

    def until(rounds: Rounds[float]) -> bool:
        return _is_known([math.log(b / a) for a, b in rounds]) or perf_counter() >= last

    rounds = take_turns([first, second], until)
    return Duel(median(a for a, _ in rounds), median(b for _, b in rounds), median_ratio(rounds, 1))


def _is_known(logarithms: Sequence[float]) -> bool:
    """True where rounds, as logarithms of ratios, show which one is faster, or that it does not matter."""
    clear = math.log(CLEAR)
    if len(logarithms) >= LEAST_ROUNDS and (min(logarithms) > clear or max(logarithms) < -clear):
        return True
    outside = _median_interval_rank(len(logarithms))
    if outside is None:
        return False
    ordered = sorted(logarithms)
    low, high = ordered[outside], ordered[-1 - outside]
    return low > 0 or high < 0 or (low > -EQUAL and high < EQUAL)


def _median_interval_rank(count: int) -> int | None:
    """The number of so many rounds to leave out at each end of an interval that has the median; None for too few."""
    chance, outside = 0.0, None
    for place in range(count // 2):
        chance += math.comb(count, place) / 2**count
        if 2 * chance > DOUBT:
            break
        outside = place
    return outside
