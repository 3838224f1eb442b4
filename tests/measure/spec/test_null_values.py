"""The sign of a right null value, from distances between predictions."""

import numpy as np
import pytest

from fewstep.measure.spec.null_values import _is_nearer_to_own, _pair_rows, _Predictions


@pytest.mark.parametrize(("noise", "is_found"), [(0.0, True), (3.0, False)])
def test_both_samples_of_a_pair_are_judged_together(noise: float, is_found: bool) -> None:
    """What one sample of a pair gains and the other loses is no error of their sum; `noise` of a pair is one."""
    partners = _pair_rows(16)
    own_side = np.where(np.arange(16) < partners, 2.0, -2.0)
    of_pair = noise * np.random.default_rng(0).normal(size=16)[np.minimum(np.arange(16), partners)]
    found = _Predictions(from_own=[np.zeros(16)], from_other=[0.6 + own_side + of_pair], apart=[np.ones(16)])
    assert _is_nearer_to_own(found, np.ones(16, bool), partners) is is_found


def test_rows_have_each_other_as_partners() -> None:
    for count in (1, 2, 15, 16):
        partners = _pair_rows(count)
        np.testing.assert_array_equal(partners[partners], np.arange(count))
        assert np.sum(partners == np.arange(count)) == count % 2
