"""How long sampling takes, and what follows from it: the plan to use, and the actions that go by meanwhile."""

import math
from collections import deque
from collections.abc import Sequence

WINDOW = 200  # calls that are looked back on
QUANTILE = 0.99


class LatencyWindow:
    """Seconds of the last calls, and their quantile. Of 100 calls or fewer the quantile is the slowest. A first call
    is not for it, since it compiles."""

    def __init__(self, size: int = WINDOW, quantile: float = QUANTILE) -> None:
        self._quantile = quantile
        self._seconds: deque[float] = deque(maxlen=size)
        self._found = math.inf  # the quantile, once for each call that was added: it is asked for at more ticks

    def add(self, seconds: float) -> None:
        """A call. What is negative or not finite is a clock that jumped, and is left out."""
        if math.isfinite(seconds) and seconds >= 0:
            self._seconds.append(seconds)
            self._found = sorted(self._seconds)[math.ceil((len(self._seconds) - 1) * self._quantile)]

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def seconds(self) -> float:
        """The quantile; infinite where there was no call."""
        return self._found


def choose_plan(measured: Sequence[float], deadline: float) -> int:
    """The first plan whose measured seconds keep the deadline; where none does, the last, which is the cheapest. (Calls
    that are cut at the deadline all measure alike.)"""
    for place, seconds in enumerate(measured):
        if seconds <= deadline:
            return place
    return len(measured) - 1


def ticks_between(execute: int, delay: int) -> int:
    """Ticks from one observation that is sampled from to the next, so that no action is `execute` ticks old when the
    next sequence takes over. It is half of them at least, however long the delay is thought to be: a call begins when
    the last one has ended in any case."""
    return max(execute - delay, math.ceil(execute / 2))


def ticks_of_delay(seconds: float, rate: float) -> int:
    """How many actions at `rate` Hz go by in so many seconds: those that are begun count."""
    return math.ceil(seconds * rate - 1e-9)
