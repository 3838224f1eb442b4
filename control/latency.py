"""How long sampling takes, which plan is then quick enough, and how many actions pass meanwhile."""

import math
from collections import deque
from collections.abc import Sequence

WINDOW = 200  # calls that a quantile looks back on
QUANTILE = 0.99


class LatencyWindow:
    """Seconds of the last calls, and their quantile. For 100 calls or fewer the quantile is the slowest call. Callers
    leave a plan's first call out, since it compiles."""

    def __init__(self, size: int = WINDOW, quantile: float = QUANTILE) -> None:
        self._quantile = quantile
        self._seconds: deque[float] = deque(maxlen=size)
        self._seconds_quantile = math.inf  # computed once a call: ticks that read it are more

    def add(self, seconds: float) -> None:
        """Add a call. A negative or infinite time is from a clock that jumped, and is left out."""
        if math.isfinite(seconds) and seconds >= 0:
            self._seconds.append(seconds)
            self._seconds_quantile = sorted(self._seconds)[math.ceil((len(self._seconds) - 1) * self._quantile)]

    def __len__(self) -> int:
        return len(self._seconds)

    @property
    def seconds(self) -> float:
        """The quantile; infinite before the first call."""
        return self._seconds_quantile


def choose_plan(measured: Sequence[float], deadline: float) -> int:
    """The first plan whose measured seconds keep the deadline. If no plan does, it is the last, which is the cheapest:
    calls that are cut at the deadline all measure alike."""
    for place, seconds in enumerate(measured):
        if seconds <= deadline:
            return place
    return len(measured) - 1


def ticks_between(execute: int, delay: int) -> int:
    """Ticks between the observations of two sequences, so that no action is `execute` ticks old when the next sequence
    takes over. The result is at least half of `execute`, whatever the delay: a call begins when the last one has ended
    in any case."""
    return max(execute - delay, math.ceil(execute / 2))


def ticks_of_delay(seconds: float, rate: float) -> int:
    """How many ticks at `rate` Hz begin within these seconds."""
    return math.ceil(seconds * rate - 1e-9)
