"""From measured gains and costs to choices: pure functions on arrays.

A choice is, for each range group, the set of operations that stay float. `gains` [operations, groups] is what leaving
one operation in float in one group adds to the mean PSNR (dB), `costs` [operations] the time it adds to a step, as a
share of the time of the all-int8 body, `shares` [groups] how much of a plan's steps each group has.

Times of single operations do not add up to float32's: each pays for a border between int8 and float, which neighbours
in float do not have between them. `scaled` makes them add up.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Choice = tuple[frozenset[int], ...]  # numbers of operations, for each group

LEAST_COST = 1e-3  # of a step, as measured: below this, differences of time are noise
LEAST_SHARE = 1e-3  # of a plan's steps: a group may have none


@dataclass(frozen=True)
class JudgedQuality:
    """Mean PSNR in dB on seeds that the search did not use, and the standard error of that mean. Of a choice that is
    taken because it passes there the mean is a little too high."""

    quality: float
    error: float


@dataclass(frozen=True)
class Point:
    """A choice with what it gives: mean PSNR in dB on the seeds that search, which flatter the best of many choices,
    and on others if it was judged; and the time of a step, relative to all int8: measured with these very graphs, or
    else an estimate from single operations."""

    choice: Choice
    quality: float
    time: float
    time_is_measured: bool = False
    judged: JudgedQuality | None = None

    @property
    def known(self) -> float:
        """The better known quality: as judged, else on the seeds that search."""
        return self.quality if self.judged is None else self.judged.quality


def ranked(gains: Array, costs: Array, shares: Array) -> list[tuple[int, int]]:
    """(operation, group) of all that helps alone, by what it wins for its time, or for its steps alone where float
    costs none. `costs` are `scaled` ones: all above 0, or none."""
    prices = costs if np.all(costs > 0) else np.ones_like(costs)  # no floor: all may be small
    value = gains / (prices[:, None] * np.maximum(shares, LEAST_SHARE))
    order = np.argsort(-value, axis=None, kind="stable")
    pairs = [tuple(map(int, np.unravel_index(flat, gains.shape))) for flat in order]
    return [(op, group) for op, group in pairs if gains[op, group] > 0]


def prefixes(count: int) -> list[int]:
    """Sizes to try of a ranked list: every one at first, then growing by a quarter, and all of it."""
    sizes = []
    size = 1
    while size < count:
        sizes.append(size)
        size = max(size + 1, size * 5 // 4)
    return [*sizes, count] if count else []


def choose(pairs: Sequence[tuple[int, int]], groups: int) -> Choice:
    """The choice that a list of (operation, group) makes."""
    return tuple(frozenset(op for op, group in pairs if group == g) for g in range(groups))


def scaled(costs: Array, float_time: float) -> Array:
    """Costs that add up to what all operations in float cost together, `float_time` - 1; each in proportion to what
    was measured of it, no less than LEAST_COST. Where float32 is as fast as all int8 they are 0 or negative: then
    nothing beats float32."""
    least = np.maximum(costs, LEAST_COST)
    return np.asarray(least * ((float_time - 1) / least.sum()))


def step_time(times: Sequence[float], shares: Array) -> float:
    """Mean over the steps of the times that each group's have; exact where all are the same."""
    return times[0] + float(shares @ (np.asarray(times) - times[0]))


def in_runs(choice: Choice, costs: Array, shares: Array, most: int) -> Choice:
    """The choice with at most `most` different sets, in runs of neighbouring groups: each set is one graph to load.

    The sets of a run are united, where that costs least time over all steps (dynamic programming).
    """
    groups = len(choice)
    united: dict[tuple[int, int], frozenset[int]] = {}
    price = np.zeros((groups, groups + 1))
    for start in range(groups):
        sets: frozenset[int] = frozenset()
        for end in range(start + 1, groups + 1):
            sets |= choice[end - 1]
            united[start, end] = sets
            price[start, end] = costs[sorted(sets)].sum() * shares[start:end].sum()
    best: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # groups covered -> (time, the ends of the runs)
    for _ in range(most):
        extended = dict(best)
        for covered, (time, ends) in best.items():
            for end in range(covered + 1, groups + 1):
                found = (time + float(price[covered, end]), (*ends, end))
                if end not in extended or found[0] < extended[end][0] - 1e-15:
                    extended[end] = found
        best = extended
    result: list[frozenset[int]] = []
    for end in best[groups][1]:
        result += [united[len(result), end]] * (end - len(result))
    return tuple(result)


def frontier(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both quality, on the seeds that search, and time; the fastest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (p.time, -p.quality)):
        if not best or point.quality > best[-1].quality:
            best.append(point)
    return best


def pick(points: Sequence[Point], quality: float | None, time: float | None) -> Point | None:
    """The fastest point of at least a quality, or the best one within a time; None where there is none.

    A quality must hold as far as it is known. One that was judged and misses it rules out all points that are no better
    on the seeds that search, and were not judged. Within a time those seeds alone say what is best: judging each would
    choose the luckiest again.
    """
    if quality is not None:
        missed = max((each.quality for each in points if each.judged and each.known < quality), default=-inf)
        enough = [each for each in points if each.known >= quality and (each.judged or each.quality > missed)]
        return min(enough, key=lambda point: (point.time, -point.quality), default=None)
    within = [point for point in points if time is None or point.time <= time]
    return max(within, key=lambda point: (point.quality, -point.time), default=None)
