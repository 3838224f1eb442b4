"""Which of two calls is faster on a machine that may do other things too: they take turns until the answer is sure.

A turn is some calls in a row, whose median counts. Other programs delay both of a round alike, or one in this round and
the other in the next: what decides is the median over rounds of the ratio of both. Rounds end when an interval of this
median (binomial, so of any distribution) has one of them faster, or has both within a few percent.
"""

import math
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import NamedTuple

Call = Callable[[], object]

CALLS = 5  # of a turn that are counted
QUIET = 150.0  # ms from the begin of a turn, in which threads of the other one may still spin
CLEAR = 1.5  # times as slow: such a call is given up
FEWEST = 2  # rounds before that
EQUAL = 0.02  # of the logarithm of times: so near, it does not matter which is chosen
DOUBT = 0.05  # the chance that the median is outside its interval
SECONDS = 8.0  # after which no round begins; one is always run


class Duel(NamedTuple):
    """Milliseconds of a call of each, and how many times as long the second one takes, by rounds."""

    first: float
    second: float
    ratio: float


def duel(first: Call, second: Call) -> Duel:
    """Each ran once before, which is not counted."""
    times: list[tuple[float, float]] = []
    until = perf_counter() + SECONDS
    while not times or (not _is_known([math.log(b / a) for a, b in times]) and perf_counter() < until):
        if len(times) % 2:  # neither is always behind the other
            later = milliseconds(second)
            times.append((milliseconds(first), later))
        else:
            times.append((milliseconds(first), milliseconds(second)))
    return Duel(median(a for a, _ in times), median(b for _, b in times), median(b / a for a, b in times))


def milliseconds(call: Call) -> float:
    """A turn: the median of its calls. Calls of its first moment are not counted, unless one fills it.

    onnxruntime's threads spin for some 20 ms behind a call, and OpenVINO took twice its time meanwhile. Caches hold
    other numbers, too.
    """
    passed = seconds = 0.0
    while passed <= QUIET:
        seconds = _of_one(call)
        passed += seconds
    return seconds if seconds > QUIET else median(_of_one(call) for _ in range(CALLS))


def _is_known(logarithms: Sequence[float]) -> bool:
    """Whether rounds, as logarithms of ratios, tell which one is faster, or that it does not matter."""
    clear = math.log(CLEAR)
    if len(logarithms) >= FEWEST and (min(logarithms) > clear or max(logarithms) < -clear):
        return True
    outside = _left_out(len(logarithms))
    if outside is None:
        return False
    ordered = sorted(logarithms)
    low, high = ordered[outside], ordered[-1 - outside]
    return low > 0 or high < 0 or (low > -EQUAL and high < EQUAL)


def _left_out(count: int) -> int | None:
    """How many of so many rounds may be left out at each end of an interval that has the median; None for too few."""
    chance, outside = 0.0, None
    for place in range(count // 2):
        chance += math.comb(count, place) / 2**count
        if 2 * chance > DOUBT:
            break
        outside = place
    return outside


def _of_one(call: Call) -> float:
    started = perf_counter()
    call()
    return 1000 * (perf_counter() - started)
