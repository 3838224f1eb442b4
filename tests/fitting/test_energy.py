"""A last row that gives samples the energy of their targets."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.fitting.blocks import sample
from fewstep.fitting.endpoint import Seeds
from fewstep.fitting.energy import with_energy
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.plans.compile import compile_plan
from tests.fitting.analytic import Analytic, blocks, facts, mixture, taught

SAMPLER = Analytic(facts("cosine", "v"), mixture)


def numbers_and_seeds(weaker=1.0, weaker_on_the_fit=1.0):
    """A plan of few steps, and seeds whose targets are its own samples divided by a factor."""
    plan = compile_plan("dpmpp_2m:3", SAMPLER.facts)
    parts = taught(SAMPLER, plan, blocks(range(24)))
    shares = (weaker_on_the_fit, weaker_on_the_fit, weaker)
    known = [replace(part, target=part.taught * share) for part, share in zip(parts, shares, strict=True)]
    return recurrence_of(plan, 3), Seeds(tuple(known[:2]), tuple(known[2:]))


def test_all_samples_together_get_the_energy_of_their_targets():
    numbers, seeds = numbers_and_seeds()
    targets = taught(SAMPLER, compile_plan("dpmpp_2m:60", SAMPLER.facts), blocks(range(24)))
    seeds = Seeds(targets[:2], targets[2:])
    found = with_energy(Rollouts(SAMPLER, SAMPLER), numbers, seeds)
    made = np.concatenate([sample(SAMPLER, plan_of(found), part) for part in targets])
    exact = np.concatenate([part.taught for part in targets])
    before = np.concatenate([sample(SAMPLER, plan_of(numbers), part) for part in targets])
    assert abs(np.square(before).sum() / np.square(exact).sum() - 1) > 1e-3
    assert np.square(made).sum() == pytest.approx(np.square(exact).sum(), rel=1e-5)
    np.testing.assert_array_equal(found.rows[:-1], numbers.rows[:-1])
    np.testing.assert_allclose(made, before * (found.rows[-1, 1] / numbers.rows[-1, 1]), rtol=1e-4, atol=1e-6)


def test_weak_samples_are_made_stronger_by_the_factor_that_they_lack():
    numbers, seeds = numbers_and_seeds(weaker=1.02, weaker_on_the_fit=1.02)
    found = with_energy(Rollouts(SAMPLER, SAMPLER), numbers, seeds)
    np.testing.assert_allclose(found.rows[-1], 1.02 * numbers.rows[-1], rtol=1e-6)


def test_an_energy_that_costs_too_much_is_not_taken():
    numbers, seeds = numbers_and_seeds(weaker=1.0, weaker_on_the_fit=1.02)  # exact on the selection seeds
    assert with_energy(Rollouts(SAMPLER, SAMPLER), numbers, seeds) is None


def test_samples_without_energy_stay_as_they_are():
    numbers, seeds = numbers_and_seeds(weaker=0.0, weaker_on_the_fit=0.0)
    assert with_energy(Rollouts(SAMPLER, SAMPLER), numbers, seeds) is None
