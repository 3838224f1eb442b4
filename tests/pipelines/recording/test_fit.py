"""Least squares between tensors of recordings."""

from math import inf, nan

import numpy as np
import pytest
import torch

from fewstep.pipelines.recording.fit import fit, round_number, round_weights

GENERATOR = np.random.default_rng(0)
ONE, OTHER = GENERATOR.standard_normal((2, 3, 4))


def test_the_weights_of_a_sum_are_found_and_a_small_term_is_0() -> None:
    weights, residual = fit([torch.from_numpy(ONE), OTHER], 2.5 * ONE - 0.5 * OTHER)
    assert weights == pytest.approx((2.5, -0.5), abs=1e-12) and residual < 1e-12
    assert fit([ONE, OTHER], ONE + 1e-6 * OTHER).weights[1] == 0
    assert fit([ONE, OTHER], ONE + 1e-4 * OTHER).weights[1] == pytest.approx(1e-4, rel=1e-6)


def test_columns_of_different_sizes_are_fitted_alike() -> None:
    """Times up to 1000 next to ones."""
    times = np.linspace(1000, 20, 50)
    assert fit([times, np.ones(50)], 0.001 * times + 0.25).weights == pytest.approx((0.001, 0.25), rel=1e-9)


def test_the_error_is_relative_to_the_largest_value() -> None:
    """The mean of 1 and 3 is 2, with errors of 1."""
    assert fit([np.ones(2)], np.array([1.0, 3.0])).residual == pytest.approx(1 / 3)


@pytest.mark.parametrize("value", [nan, inf])
def test_values_that_are_not_finite_fit_nothing(value: float) -> None:
    bad = np.where(ONE[0, 0] == ONE, value, ONE)
    assert fit([bad, OTHER], OTHER).residual == inf and fit([ONE, OTHER], bad).residual == inf


def test_fitted_numbers_lose_their_rounding_only() -> None:
    assert [round_number(number) for number in (0.0010000000475, 1e-7, 7.5000003, 0.12345)] == [0.001, 0, 7.5, 0.12345]
    assert round_weights([4.4999999, -3.5000002]) == (4.5, -3.5)
