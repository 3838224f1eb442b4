"""Systematic resampling has the right counts, and the other choices are what they say."""

import numpy as np
import pytest

from fewstep.literature.populations.resampling import ancestors, effective


def test_counts_are_the_weights_rounded() -> None:
    weights = np.array([0.5, 0.05, 0.3, 0.15])
    counts = np.zeros((200, 4))
    for place, chance in enumerate((np.arange(200) + 0.5) / 200):
        chosen = ancestors(np.log(weights) + 7, "systematic", chance)
        counts[place] = np.bincount(chosen, minlength=4)
    assert (np.abs(counts - 4 * weights) < 1).all()
    np.testing.assert_allclose(counts.mean(0), 4 * weights, atol=0.02)


def test_one_is_drawn_by_weight_and_best_is_the_heaviest() -> None:
    logs = np.log([0.2, 0.7, 0.1])
    assert set(ancestors(logs, "best", 0.9)) == {1}
    drawn = [ancestors(logs, "one", chance) for chance in (np.arange(100) + 0.5) / 100]
    assert all(len(set(each)) == 1 for each in drawn)
    np.testing.assert_allclose(np.bincount([each[0] for each in drawn]) / 100, [0.2, 0.7, 0.1], atol=0.011)


@pytest.mark.parametrize(("logs", "expected"), [([0, 0, 0, 0], 4), ([0, -800, -800, -800], 1), ([5, 5, -800, -800], 2)])
def test_the_effective_number(logs, expected) -> None:
    assert effective(np.array([logs], float)) == pytest.approx(expected)
