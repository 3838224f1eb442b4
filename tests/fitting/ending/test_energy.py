"""A last row that gives samples the energy of their targets."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.fitting.blocks import sample
from fewstep.fitting.ending.energy import PRICE, energy_of, scaled
from fewstep.fitting.endpoint import Nominal, Seeds
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.plans.compile import compile_plan
from fewstep.rollouts.metrics import psnr
from tests.fitting.analytic import Analytic, blocks, facts, mixture, taught

WORSE = Nominal(np.zeros(1), np.arange(8.0))  # PSNRs of a nominal plan on the seeds of the choices
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
    energy = energy_of(Rollouts(SAMPLER, SAMPLER), numbers, seeds, WORSE)
    assert energy.taken == energy.factor
    found = scaled(numbers, energy.factor)
    made = np.concatenate([sample(SAMPLER, plan_of(found), part) for part in targets])
    exact = np.concatenate([part.taught for part in targets])
    before = np.concatenate([sample(SAMPLER, plan_of(numbers), part) for part in targets])
    assert abs(np.square(before).sum() / np.square(exact).sum() - 1) > 1e-3
    assert np.square(made).sum() == pytest.approx(np.square(exact).sum(), rel=1e-5)
    np.testing.assert_array_equal(found.rows[:-1], numbers.rows[:-1])
    np.testing.assert_allclose(made, before * (found.rows[-1, 1] / numbers.rows[-1, 1]), rtol=1e-4, atol=1e-6)


def test_weak_samples_are_made_stronger_by_the_factor_that_they_lack():
    numbers, seeds = numbers_and_seeds(weaker=1.02, weaker_on_the_fit=1.02)
    energy = energy_of(Rollouts(SAMPLER, SAMPLER), numbers, seeds, WORSE)
    assert energy.price < 0  # nearer than before
    assert energy.taken == energy.factor == pytest.approx(1.02, rel=1e-6)


def test_an_energy_that_costs_too_much_is_not_taken():
    numbers, seeds = numbers_and_seeds(weaker=1.0, weaker_on_the_fit=1.02)  # exact on the selection seeds
    energy = energy_of(Rollouts(SAMPLER, SAMPLER), numbers, seeds, WORSE)
    assert energy.taken == 1 and energy.price > PRICE


def test_samples_without_energy_stay_as_they_are():
    numbers, seeds = numbers_and_seeds(weaker=0.0, weaker_on_the_fit=0.0)
    assert energy_of(Rollouts(SAMPLER, SAMPLER), numbers, seeds, WORSE) is None


@pytest.mark.parametrize("share", [0.8, 1.2])
def test_it_is_taken_as_far_as_it_costs_a_tenth_of_a_decibel(share):
    """Samples that lie off their targets by noise, so that no factor costs infinitely much; all targets are stronger by
    what costs the selection seeds a share of the price."""
    numbers, seeds = numbers_and_seeds()
    (chosen,) = seeds.selection
    rng, made = np.random.default_rng(0), chosen.taught
    target = made + rng.normal(0, 0.05, made.shape).astype(np.float32)

    def price(factor):
        return float((psnr(made, target) - psnr(np.float32(factor) * made, target)).mean())

    factors = np.linspace(1.0, 1.2, 4001)
    factor = factors[np.searchsorted([price(each) for each in factors], share * PRICE)]
    blocks, selection = (*seeds.fit, chosen), (replace(chosen, target=target),)
    energy = sum(float(np.square(each.taught).sum()) for each in blocks)
    rest = factor**2 * energy - float(np.square(target).sum())  # what the seeds of the fit must have
    given = np.sqrt(rest / sum(float(np.square(each.taught).sum()) for each in seeds.fit))
    fit = tuple(replace(each, target=np.float32(given) * each.taught) for each in seeds.fit)
    energy = energy_of(Rollouts(SAMPLER, SAMPLER), numbers, Seeds(fit, selection), WORSE)
    assert energy.price == pytest.approx(share * PRICE, rel=0.02)
    assert (energy.taken == energy.factor) == (share < 1)
    assert 1 < energy.taken <= energy.factor
    assert price(energy.taken) <= PRICE
    if share > 1:  # a further twentieth of the way would cost too much
        assert price(energy.taken + 0.05 * (energy.factor - 1)) > PRICE


def test_a_gain_that_would_no_longer_count_keeps_its_energy():
    numbers, seeds = numbers_and_seeds(weaker=1.02, weaker_on_the_fit=1.02)
    better = Nominal(np.zeros(1), np.full(8, 1000.0))
    assert energy_of(Rollouts(SAMPLER, SAMPLER), numbers, seeds, better).taken == 1
