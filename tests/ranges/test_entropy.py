"""The threshold of the entropy calibrator, on distributions where it is known."""

import numpy as np

from fewstep.ranges.entropy import LEVELS, least_divergent


def test_what_a_level_a_bin_can_hold_is_kept_whole() -> None:
    assert least_divergent(np.arange(1.0, LEVELS + 1)) == LEVELS


def test_an_even_distribution_loses_nothing_to_levels_and_is_not_clipped() -> None:
    assert least_divergent(np.ones(16 * LEVELS)) == 16 * LEVELS


def test_a_distant_outlier_is_clipped() -> None:
    """Everything in the first 128 bins, which differ, and one value in bin 2048: only without it do levels tell them
    apart."""
    mass = np.concatenate([1 + np.arange(LEVELS) % 2 * 50.0, np.zeros(2048 - LEVELS)])
    mass[-1] = 1e-3
    assert least_divergent(mass) == LEVELS


def test_the_divergence_is_scale_free() -> None:
    mass = np.exp(-np.arange(3000) / 150)
    assert least_divergent(mass) == least_divergent(1e6 * mass)
