"""A former fitted plan beside a new one, which may be behind it by a price that the former has not paid."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.fitting.ending.energy import PRICE
from fewstep.fitting.ending.former import price_of_energy, price_of_features
from fewstep.fitting.ending.step_back import StepBack

RNG = np.random.default_rng(0)
TAUGHT = RNG.normal(size=(64, 1, 2, 2)).astype(np.float32)
NOISE = RNG.normal(size=TAUGHT.shape).astype(np.float32)
PIXELS = SimpleNamespace(name="pixels", extract=lambda samples: samples.reshape(len(samples), -1))
BACK = StepBack(0.8, 0.8, 0.4, 1.0)


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
    assert price_of_features(BACK, PIXELS, further, nearer, TAUGHT) == BACK.price
    assert price_of_features(BACK, PIXELS, nearer, further, TAUGHT) == 0
    assert price_of_features(BACK, PIXELS, nearer, nearer, TAUGHT) == 0
    assert price_of_features(None, PIXELS, further, nearer, TAUGHT) == 0
    assert price_of_features(replace(BACK, price=-0.2), PIXELS, further, nearer, TAUGHT) == 0  # it gained PSNR too
