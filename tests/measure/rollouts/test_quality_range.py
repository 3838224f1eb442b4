"""The ranges of a quality on other seeds: how often they contain it, for distributions that are known."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from fewstep.measure.rollouts.quality_range import (
    LEVEL,
    OTHERS,
    is_narrow,
    mean_range,
    p5_range,
    student_quantile,
)

DISTRIBUTIONS = ["normal", "tailed", "of two kinds"]


def draw(distribution: str, rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return values in dB. The tail is of bad seeds."""
    if distribution == "tailed":
        return 50 - rng.gamma(1.5, 3.0, count)
    low = 15 * (rng.random(count) < 0.2) if distribution == "of two kinds" else 0
    return 45 - low + 2 * rng.standard_normal(count)


def share_inside(distribution: str, count: int, is_mean: bool) -> float:
    """Return how often the quality of OTHERS further values lies in the range of `count` values, in 1000 tries."""
    rng, inside = np.random.default_rng(0), 0
    for _ in range(1000):
        ends = (mean_range if is_mean else p5_range)(draw(distribution, rng, count).tolist())
        others = draw(distribution, rng, OTHERS)
        assert ends is not None
        inside += bool(ends[0] <= (others.mean() if is_mean else np.percentile(others, 5)) <= ends[1])
    return inside / 1000


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_mean_of_other_seeds_lies_in_its_range(distribution: str) -> None:
    assert share_inside(distribution, 64, is_mean=True) == pytest.approx(LEVEL, abs=0.03)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_the_fifth_percentile_of_other_seeds_lies_in_its_range(distribution: str) -> None:
    assert share_inside(distribution, 64, is_mean=False) == pytest.approx(LEVEL, abs=0.045)


def test_few_seeds_give_a_wide_range_of_the_fifth_percentile_and_many_a_narrow_one() -> None:
    rng = np.random.default_rng(1)
    few, many = (p5_range(draw("normal", rng, count).tolist()) for count in (8, 256))
    assert few is not None and many is not None and few[1] - few[0] > 1.5 * (many[1] - many[0])
    assert many[0] > 40.0  # the 5th percentile is 41.7


@pytest.mark.parametrize(("degrees", "tolerance"), [(2, 1e-2), (3, 2e-3), (7, 1e-4), (63, 1e-6)])
def test_the_quantile_of_student_is_that_of_scipy(degrees: int, tolerance: float) -> None:
    exact = stats.t.ppf((1 + LEVEL) / 2, degrees)
    assert student_quantile(degrees) == pytest.approx(exact, rel=tolerance)


def test_two_seeds_give_no_range() -> None:
    assert mean_range([40.0, 41.0]) is None and p5_range([40.0, 41.0]) is None
    assert not is_narrow((None, (1.0, 1.5)), 1.0)


def test_a_range_is_narrow_up_to_the_width() -> None:
    assert is_narrow(((40.0, 41.0), (38.0, 38.5)), 1.0) and not is_narrow(((40.0, 41.1), (38.0, 38.5)), 1.0)
