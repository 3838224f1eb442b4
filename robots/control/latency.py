"""The latency of sampling, in seconds and in ticks."""

import math
from collections.abc import Collection

QUANTILE = 0.99


def latency_quantile(seconds: Collection[float]) -> float:
    """Return the 99th percentile of the seconds of calls. For 100 calls or fewer it is the slowest."""
    return sorted(seconds)[math.ceil((len(seconds) - 1) * QUANTILE)]


def ticks_between(execute: int, delay: int) -> int:
    """Return the ticks between the observations of two sequences, so that the next sequence takes over before an action
    is `execute` ticks old.

    The result is at least half of `execute`, for any delay, since a call begins only after the previous one has ended.
    """
    return max(execute - delay, math.ceil(execute / 2))


def delay_ticks(seconds: float, rate: float) -> int:
    """Return how many ticks at `rate` Hz begin during a delay of `seconds`."""
    return math.ceil(seconds * rate - 1e-9)


def describe_drop(ticks: int, horizon: int, rate: float) -> str:
    """Return why a sequence was dropped: in the `ticks` ticks of its call, the robot executed more actions than the
    sequence has or, for velocities, more ticks passed."""
    return (
        f"a sequence was dropped: its call took {ticks} ticks ({ticks / rate:.3g} s), and its horizon is {horizon} "
        f"actions ({horizon / rate:.3g} s)"
    )
