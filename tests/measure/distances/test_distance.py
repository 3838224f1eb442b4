"""Distances against what theory gives for Gaussians."""

import numpy as np
import pytest

from fewstep.measure.distances.distance import (
    Gaussian,
    bias,
    difference_interval,
    fit,
    frechet,
    is_detectable,
)


def gaussian(mean, covariance):
    return Gaussian(np.array(mean, float), np.array(covariance, float), 1)


def test_frechet_of_diagonal_gaussians_is_the_sum_over_axes():
    a, b = gaussian([0, 0], np.diag([4, 1])), gaussian([3, 0], np.diag([1, 9]))
    assert frechet(a, b) == pytest.approx(3**2 + (2 - 1) ** 2 + (1 - 3) ** 2)


def test_frechet_is_a_distance_and_does_not_depend_on_the_axes():
    rng = np.random.default_rng(0)
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    factors = [rng.normal(size=(5, 5)) for _ in range(2)]
    a, b = (gaussian(rng.normal(size=5), factor @ factor.T) for factor in factors)
    turned = [gaussian(rotation @ g.mean, rotation @ g.covariance @ rotation.T) for g in (a, b)]
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet(a, b) == pytest.approx(frechet(b, a)) == pytest.approx(frechet(*turned))


def test_frechet_serves_singular_covariances():
    flat = gaussian([0, 0], np.diag([1, 0]))
    assert frechet(flat, gaussian([0, 0], np.diag([0, 4]))) == pytest.approx(1 + 4)


def test_bias_is_what_two_sets_of_one_gaussian_show():
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(8, 8))
    known = gaussian(np.zeros(8), factor.T @ factor)
    for n, m in ((300, 300), (200, 800)):
        found = [frechet(*(fit(rng.normal(size=(size, 8)) @ factor) for size in (n, m))) for _ in range(60)]
        assert np.mean(found) == pytest.approx(bias(known, n, m), rel=0.1)


def test_interval_holds_the_measured_difference_and_grows_with_a_real_one():
    rng = np.random.default_rng(3)
    floats, reference = rng.normal(size=(400, 6)), rng.normal(size=(400, 6))
    near = floats + 0.001 * rng.normal(size=floats.shape)
    low, high = difference_interval(near, floats, reference, resamples=50)
    assert low < 0 < high and high - low < 0.02  # paired: far finer than the floor
    far = floats + np.eye(6)[0]
    low, high = difference_interval(far, floats, reference, resamples=50)
    difference = frechet(fit(far), fit(reference)) - frechet(fit(floats), fit(reference))
    assert low < difference < high and 0.5 < high - low < 1
    assert difference_interval(far, floats, reference, 50) == (low, high)  # the same every time


def test_only_what_leaves_the_floor_and_its_own_interval_is_detectable():
    assert not is_detectable(0.5, (0.4, 0.6), floor=1.0)
    assert not is_detectable(2.0, (-1.0, 5.0), floor=1.0)
    assert is_detectable(2.0, (1.5, 2.5), floor=1.0) and is_detectable(-2.0, (-2.5, -1.5), floor=1.0)


def test_a_gaussian_needs_features_of_two_samples():
    with pytest.raises(ValueError, match="two samples or more"):
        fit(np.zeros((1, 4)))
