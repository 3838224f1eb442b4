"""Find the faster of two contenders on a machine with other load: they take turns until the result is certain.

Other programs delay both contenders of a round, or one in this round and the other in the next. The result is therefore
decided by the median over rounds of the ratio of the two times. Rounds end when a confidence interval of this median
(binomial, so valid for any distribution) shows that one is faster, or that both are within a few percent.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import NamedTuple

from fewstep.runtime.machine.turns import Rounds, median_ratio, take_turns

Turn = Callable[[], float]  # a function that runs one turn and returns the milliseconds of a call

CLEAR = 1.5  # ratio of times from which the slower contender is given up
LEAST_ROUNDS = 2  # rounds before that
EQUAL = 0.02  # difference of the logarithms of times below which the choice does not matter
DOUBT = 0.05  # probability that the median is outside its interval
DUEL_SECONDS = 8.0  # seconds after which no further round starts; one round always runs


class Duel(NamedTuple):
    """Milliseconds of a call of each contender, and the median ratio of second to first over rounds."""

    first: float
    second: float
    ratio: float


def run_duel(first: Turn, second: Turn) -> Duel:
    """Time two contenders in turns until it is known which is faster, or until DUEL_SECONDS have passed. Each must have
    run before."""
    last = perf_counter() + DUEL_SECONDS

    def is_done(rounds: Rounds[float]) -> bool:
        return _is_known([math.log(b / a) for a, b in rounds]) or perf_counter() >= last

    rounds = take_turns([first, second], is_done)
    return Duel(median(a for a, _ in rounds), median(b for _, b in rounds), median_ratio(rounds, 1))


def _is_known(logarithms: Sequence[float]) -> bool:
    """Return whether the rounds so far show which contender is faster, or that the difference does not matter.
    `logarithms` are the logarithms of the time ratio in each round."""
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
    """Return how many of `count` rounds to omit at each end of the median's interval; None for too few rounds."""
    chance, outside = 0.0, None
    for place in range(count // 2):
        chance += math.comb(count, place) / 2**count
        if 2 * chance > DOUBT:
            break
        outside = place
    return outside
