"""Distances between the samples of plans and the teacher's, as sets."""

from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.fitting.ending.sets import set_distances

PIXELS = SimpleNamespace(name="pixels", extract=lambda samples: samples.reshape(len(samples), -1))


def taught(seeds=64):
    return np.random.default_rng(1).normal(size=(seeds, 1, 2, 2)).astype(np.float32)


def test_a_set_that_is_shifted_is_as_far_as_its_shift():
    exact = taught()
    found = set_distances(PIXELS, exact + 0.1, exact + 0.3, exact)
    assert (found.nominal, found.fitted) == pytest.approx((4 * 0.01, 4 * 0.09), rel=1e-4)
    assert found.features == "pixels" and found.error < 1e-4 and found.is_worse
    assert not set_distances(PIXELS, exact + 0.3, exact + 0.1, exact).is_worse


def test_a_difference_by_chance_is_no_warning():
    """Samples of both plans lie about the teacher's by noise of the same kind."""
    exact, rng = taught(), np.random.default_rng(2)
    noisy = [exact + rng.normal(0, 0.3, exact.shape).astype(np.float32) for _ in range(2)]
    pair = [set_distances(PIXELS, one, other, exact) for one, other in (noisy, noisy[::-1])]
    assert pair[0].error == pytest.approx(pair[1].error) and pair[0].error > 0
    assert not any(each.is_worse for each in pair)
