"""Confidence intervals of a success rate, and of the difference of two success rates on the same episodes."""

import math
from dataclasses import dataclass

from scipy.stats import binomtest

ONE_SIDED, TWO_SIDED = 1.644854, 1.959964  # normal quantiles of 95 %


def wilson(successes: int, episodes: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if episodes == 0:
        return 0.0, 1.0
    found = binomtest(successes, episodes).proportion_ci(0.95, "wilson")
    return float(found.low), float(found.high)


@dataclass(frozen=True)
class Paired:
    """Two contenders on the same episodes. gained: solved by the first only. lost: solved by the second only."""

    pairs: int
    gained: int
    lost: int

    @property
    def difference(self) -> float:
        return (self.gained - self.lost) / self.pairs

    @property
    def discordant(self) -> float:
        """The fraction of the pairs that differ."""
        return (self.gained + self.lost) / self.pairs

    @property
    def bound(self) -> float:
        """Return the lower bound of the difference, with 95 % confidence: Bonett and Price 2012, the adjusted
        interval for paired shares. Its width is not zero if no pair differs.
        """
        return self._limits(ONE_SIDED)[0]

    @property
    def interval(self) -> tuple[float, float]:
        """Return the two-sided interval of 95 % of the difference, by the same method."""
        return self._limits(TWO_SIDED)

    def _limits(self, quantile: float) -> tuple[float, float]:
        gained, lost = (self.gained + 1) / (self.pairs + 2), (self.lost + 1) / (self.pairs + 2)
        error = math.sqrt((gained + lost - (gained - lost) ** 2) / (self.pairs + 2))
        return max(-1.0, gained - lost - quantile * error), min(1.0, gained - lost + quantile * error)

    @property
    def p_value(self) -> float:
        """McNemar's exact test that neither is better, two-sided."""
        changed = self.gained + self.lost
        return float(binomtest(self.gained, changed).pvalue) if changed else 1.0
