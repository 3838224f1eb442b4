"""The time that sampling takes, and the number of actions that pass meanwhile."""

import math
from collections.abc import Collection

QUANTILE = 0.99


def latency_quantile(seconds: Collection[float]) -> float:
    """The quantile of calls. Of 100 calls or fewer it is the slowest."""
    return sorted(seconds)[math.ceil((len(seconds) - 1) * QUANTILE)]


def ticks_between(execute: int, delay: int) -> int:
    """Ticks between the observations of two sequences, so that no action is `execute` ticks old when the next sequence
    takes over. The result is at least half of `execute`, whatever the delay: a call begins when the last one has ended
    in any case."""
    return max(execute - delay, math.ceil(execute / 2))


def delay_ticks(seconds: float, rate: float) -> int:
    """The number of ticks at `rate` Hz that begin within these seconds."""
    return math.ceil(seconds * rate - 1e-9)
