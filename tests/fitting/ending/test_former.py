"""A former fitted plan beside a new one, which may be behind it by a price that the former has not paid."""

from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.fitting.ending.energy import PRICE
from fewstep.fitting.ending.former import price_of_energy, price_of_features

RNG = np.random.default_rng(0)
TAUGHT = RNG.normal(size=(64, 1, 2, 2)).astype(np.float32)
NOISE = RNG.normal(size=TAUGHT.shape).astype(np.float32)
PIXELS = SimpleNamespace(name="pixels", extract=lambda samples: samples.reshape(len(samples), -1))


def nearest(noise):
    """Samples that are weak, as least squares make them, and the same with the energy of the teacher's."""
    seen = TAUGHT + noise * NOISE
    weak = seen * float((seen * TAUGHT).sum() / np.square(seen).sum())
    return weak, weak * float(np.sqrt(np.square(TAUGHT).sum() / np.square(weak).sum()))


def test_a_former_plan_that_has_the_energy_is_granted_nothing():
    weak, strong = nearest(0.1)
    assert 0.005 < price_of_energy(weak, TAUGHT) < PRICE
    assert price_of_energy(strong, TAUGHT) == pytest.approx(0, abs=1e-5)


def test_the_energy_is_granted_its_limit_at_most():
    assert price_of_energy(nearest(1.0)[0], TAUGHT) == PRICE
    assert price_of_energy(0.9 * TAUGHT, TAUGHT) == 0  # they would gain
    assert price_of_energy(0 * TAUGHT, TAUGHT) == 0


def test_features_are_granted_their_price_only_where_their_distance_falls():
    further = 0.5 * TAUGHT
    nearer = 0.95 * TAUGHT
    assert price_of_features(0.4, PIXELS, further, nearer, TAUGHT) == 0.4
    assert price_of_features(0.4, PIXELS, nearer, further, TAUGHT) == 0
    assert price_of_features(0.4, PIXELS, nearer, nearer, TAUGHT) == 0
    assert price_of_features(0.4, PIXELS, TAUGHT[::-1], nearer, TAUGHT) == 0  # row by row far, and no FD at all
    assert price_of_features(0.4, None, further, nearer, TAUGHT) == 0
    assert price_of_features(-0.2, PIXELS, further, nearer, TAUGHT) == 0  # they gained PSNR too
