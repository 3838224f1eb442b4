"""The range in which a quality lies on other seeds: prediction intervals of the mean, of a share, and of the 5th
percentile.

A judgement on OTHERS further seeds lies in its range with a probability of LEVEL. So the range accounts for the chance
in both sets of seeds, and does not shrink to zero as seeds are added.
"""

from collections.abc import Sequence
from math import comb, inf, sqrt
from statistics import NormalDist, mean, stdev

OTHERS = 64  # further seeds whose quality a range predicts
LEVEL = 0.95
FEWEST = 3  # seeds; the approximation of Student's quantile is close from here on
P5_PLACE = 4  # of the 5th percentile in OTHERS sorted values, counted from 1
DEVIATIONS = 1.645  # from the mean to the 5th percentile of normal values
P5_VARIANCE = 4.47  # of the 5th percentile of normal values, times the number of values: 0.05 * 0.95 / density**2

Range = tuple[float, float]  # in dB, or in the unit of a judge's score


def mean_range(values: Sequence[float]) -> Range | None:
    """Return the range of the mean of OTHERS further values, by Student's t. None for fewer than FEWEST values."""
    if len(values) < FEWEST:
        return None
    width = student_quantile(len(values) - 1) * stdev(values) * sqrt(1 / len(values) + 1 / OTHERS)
    return mean(values) - width, mean(values) + width


def share_range(values: Sequence[float]) -> Range | None:
    """Return the range of the share of ones in OTHERS further values, each 0 or 1: a score interval, which is not empty
    if all values are equal (Agresti and Coull 1998). None for fewer than FEWEST values."""
    if len(values) < FEWEST:
        return None
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    count = len(values) + z**2
    share = (sum(values) + z**2 / 2) / count
    width = z * sqrt(share * (1 - share) * (1 / count + 1 / OTHERS))
    return max(0.0, share - width), min(1.0, share + width)


def p5_range(values: Sequence[float]) -> Range | None:
    """Return the range of the 5th percentile of OTHERS further values. None for fewer than FEWEST values.

    Its ends are values of the sorted sample, for which the probability is exact for any distribution. Where the sample
    is too small for that, the lower end is the smallest value or, if it is lower, the end of the range for normal
    values.
    """
    if len(values) < FEWEST:
        return None
    ordered, outside, below, low = sorted(values), (1 - LEVEL) / 2, 0.0, 0
    high = len(values)
    for place in range(len(values)):  # below: the probability that at most `place` values are below the percentile
        below += _chance_of_values_below(place, len(values))
        if below <= outside:
            low = place + 1
        if 1 - below <= outside:
            high = place + 1
            break
    lowest = ordered[low - 1] if low else min(ordered[0], _lower_end_of_normal(values))
    return lowest, ordered[high - 1]


def student_quantile(degrees: int) -> float:
    """Return the quantile (1 + LEVEL) / 2 of Student's t, within 1 % from 2 degrees of freedom on (Abramowitz and
    Stegun 1964, equation 26.7.5)."""
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    terms: tuple[float, ...] = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term * float(degrees) ** -power for power, term in enumerate(terms, 1))


def is_narrow(ranges: Sequence[Range | None], width: float) -> bool:
    """Return whether all ranges are known, and at most `width` dB wide."""
    return all((inf if ends is None else ends[1] - ends[0]) <= width for ends in ranges)


def _chance_of_values_below(place: int, count: int) -> float:
    """Return the probability that `place` of `count` values are below the 5th percentile of OTHERS further values of
    the same distribution: all orders of the values are equally likely."""
    ways: int = comb(place + P5_PLACE - 1, place) * comb(count - place + OTHERS - P5_PLACE, count - place)
    return ways / comb(count + OTHERS, count)


def _lower_end_of_normal(values: Sequence[float]) -> float:
    spread = sqrt((1 + DEVIATIONS**2 / 2) / len(values) + P5_VARIANCE / OTHERS)
    return mean(values) - (DEVIATIONS + student_quantile(len(values) - 1) * spread) * stdev(values)
