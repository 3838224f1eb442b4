"""FD to real data: its bias is removed, its error is that of many sets, and a distance with bounds in the wrong order
is refused.
"""

import numpy as np
import pytest

from benchmarks.distance_to_data import PARTS, jackknife_distances, mean_and_error, refuse_unless_falling
from fewstep.measure.distances.frechet import Gaussian, fit_gaussian, frechet_distance
from tests.refusals import refuses

REAL = Gaussian(np.zeros(8), np.eye(8), 10_000)


def sets(count: int, size: int) -> list[np.ndarray]:
    """Return sets of features [size, 8] with the distribution of the real ones."""
    return list(np.random.default_rng(0).standard_normal((count, size, 8)))


def test_the_bias_of_few_samples_is_taken_out() -> None:
    """The distance of the distribution to itself is 0."""
    plain = np.mean([frechet_distance(fit_gaussian(each), REAL) for each in sets(64, 256)])
    corrected = np.mean([jackknife_distances(each, REAL).mean() for each in sets(64, 256)])
    assert plain > 0.04
    assert abs(corrected) < 0.004


def test_the_error_is_the_deviation_of_other_sets() -> None:
    found = [mean_and_error(jackknife_distances(each + 0.5, REAL)) for each in sets(64, 256)]
    means, errors = np.transpose(found)
    assert np.mean(errors) == pytest.approx(np.std(means, ddof=1), rel=0.3)
    assert means.mean() == pytest.approx(8 * 0.5**2, rel=0.02)


def falling(rise: float, spread: float) -> dict[int, np.ndarray]:
    """Return pseudo-values at 20 and 250 steps, whose differences have the mean `rise` and this deviation."""
    wave = np.tile([1.0, -1.0], PARTS // 2)
    return {20: 30 + 9 * wave, 250: 30 + rise + (9 + spread) * wave}


def test_a_distance_that_rises_with_steps_is_refused() -> None:
    with refuses(("FD of tiny rises from 30.0", "to 34.0")):
        refuse_unless_falling("tiny", falling(4.0, 1.0))


@pytest.mark.parametrize("by_steps", [falling(-4.0, 1.0), falling(4.0, 9.0)])
def test_a_distance_that_falls_or_is_not_surely_higher_is_taken(by_steps: dict[int, np.ndarray]) -> None:
    refuse_unless_falling("tiny", by_steps)


def test_fewer_steps_than_twenty_may_be_nearer_or_farther() -> None:
    refuse_unless_falling("tiny", {4: np.full(PARTS, 10.0), **falling(-4.0, 1.0)})
