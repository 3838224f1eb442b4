"""The end of a fit: PSNR is traded for features and for energy."""

from dataclasses import replace
from itertools import chain
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest

from fewstep.fitting import feature_tradeoff as module
from fewstep.fitting.feature_tradeoff import (
    COST,
    ENERGY_PART,
    WEIGHTS,
    FeatureTradeoff,
    feature_columns,
    interpolate_numbers,
    joint_equations,
)
from fewstep.fitting.jacobian import Jacobian
from fewstep.fitting.levenberg_marquardt import (
    FitSeeds,
    NominalPsnr,
    Refinement,
    column_energies,
    normal_equations,
    refine,
    solve_step,
)
from fewstep.fitting.recurrence import build_plan, extract_recurrence
from fewstep.fitting.rollouts import FitSampler
from fewstep.measure.rollouts.metrics import psnr
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.runtime.sampling.finite_checks import NotFinite
from tests.fitting.analytic import X_SHAPE, Analytic, blocks, facts, mixture, refinement, set_targets

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(16, 3))
LINEAR = SimpleNamespace(extract=lambda samples: (samples.reshape(len(samples), -1) @ MATRIX).astype(np.float32))
ENERGY_COST = ENERGY_PART * COST
SAMPLER = Analytic(facts("cosine", "v"), mixture)
ROLLED = FitSampler(SAMPLER, SAMPLER)


def random_jacobian(seeds=5, numbers=4):
    columns = RNG.normal(size=(seeds, numbers, 16)).astype(np.float32)
    samples, targets = RNG.normal(size=(2, seeds, 16)).astype(np.float32)
    return Jacobian(columns, samples, targets)


def test_columns_of_linear_features_are_those_of_samples_through_the_matrix():
    jacobian = random_jacobian()
    columns, residual = feature_columns(LINEAR, jacobian, X_SHAPE)
    np.testing.assert_allclose(columns, jacobian.columns @ MATRIX, atol=1e-3)
    np.testing.assert_allclose(residual, jacobian.residual @ MATRIX, atol=1e-5)


def test_without_weight_the_equations_are_those_of_pixels():
    jacobian = random_jacobian()
    for joint, plain in zip(joint_equations(jacobian, LINEAR, 0.0, X_SHAPE), normal_equations(jacobian), strict=True):
        np.testing.assert_array_equal(joint, plain)


def test_with_a_large_weight_a_step_solves_for_the_features():
    """The pixels also have another error, which features do not see."""
    truth, other = np.array([0.5, -1.0, 2.0]), np.array([1.0, 1.0, -1.0])
    columns = RNG.normal(size=(5, 3, 16)).astype(np.float32)
    unseen = np.eye(16) - MATRIX @ np.linalg.pinv(MATRIX)
    lacks = np.einsum("spd,p->sd", columns, truth) + np.einsum("spd,p->sd", columns, other) @ unseen
    samples = RNG.normal(size=(5, 16)).astype(np.float32)
    jacobian = Jacobian(columns, samples, (samples + lacks).astype(np.float32))
    step = solve_step(
        *joint_equations(jacobian, LINEAR, 1e6, X_SHAPE), column_energies(jacobian), np.zeros(3), 0.0, 0.0
    )
    np.testing.assert_allclose(step, truth, rtol=1e-4)
    pixels = solve_step(*normal_equations(jacobian), column_energies(jacobian), np.zeros(3), 0.0, 0.0)
    assert np.abs(pixels - truth).min() > 0.1


def test_the_slope_is_the_one_of_both_logarithms():
    """A small step along each number changes the objective by the slope."""
    jacobian, weight = random_jacobian(), 0.7
    columns, residual = feature_columns(LINEAR, jacobian, X_SHAPE)

    def objective(by):
        error = np.square(jacobian.residual - np.einsum("spd,p->sd", jacobian.columns, by)).sum(axis=1)
        features = np.square(residual - np.einsum("spd,p->sd", columns, by)).sum(axis=1)
        return np.log(error).mean() + weight * np.log(features.mean())

    wanted = np.array([objective(1e-4 * unit) - objective(-1e-4 * unit) for unit in np.eye(4)])
    _, slope = joint_equations(jacobian, LINEAR, weight, X_SHAPE)
    np.testing.assert_allclose(slope / slope[0], wanted / wanted[0], rtol=1e-4)


def pixel_refinement(guidance=None):
    """Return a refinement of pixels, and the start of its last stage."""
    parts = set_targets(SAMPLER, compile_plan("dpmpp_2m:60", SAMPLER.facts, guidance), blocks(range(56)))
    seeds, judges = FitSeeds(parts[:3], parts[3:5]), parts[5:]
    work = refinement(SAMPLER, compile_plan("dpmpp_2m:3", SAMPLER.facts, guidance), seeds)
    *_, best = chain.from_iterable(refine(work, work.origin, 3, measured=2))
    return replace(work, origin=best.numbers), judges


def of_the_mean(samples):
    """Features that see little of a sample: its mean, and the mean of its upper half."""
    rows = samples.reshape(len(samples), -1)
    return np.stack([rows.mean(axis=1), rows[:, :8].mean(axis=1)], axis=1)


def distance(numbers, parts):
    made, exact = (
        np.concatenate(each)
        for each in zip(*((part.sample(SAMPLER, build_plan(numbers)), part.target) for part in parts), strict=True)
    )
    apart = np.square(of_the_mean(made) - of_the_mean(exact)).sum(axis=1).mean()
    return float(psnr(made, exact).mean()), -10 * float(np.log10(apart))


@pytest.mark.parametrize("guidance", [None, 1.5])
def test_features_of_seeds_that_nothing_was_chosen_on_come_nearer_within_the_cost(guidance):
    work, judges = pixel_refinement(guidance)
    numbers, trade = FeatureTradeoff(work, SimpleNamespace(extract=of_the_mean), cost=0.5).trade()
    assert trade.weight in WEIGHTS and trade.price <= 0.5 and trade.features > 1
    before, after = distance(work.origin, work.seeds.selection), distance(numbers, work.seeds.selection)
    assert (before[0] - after[0], after[1] - before[1]) == pytest.approx((trade.price, trade.features))
    assert distance(numbers, judges)[1] > distance(work.origin, judges)[1] + 0.5


def test_a_step_for_features_is_not_taken_where_nothing_may_be_paid():
    work, _ = pixel_refinement()
    numbers, trade = FeatureTradeoff(work, SimpleNamespace(extract=of_the_mean), cost=-100.0).trade()
    assert numbers is work.origin and (trade.weight, trade.price, trade.features, trade.factor) == (0, 0, 0, 1)


def test_a_step_that_costs_too_much_is_taken_in_part(monkeypatch):
    """The teacher's features are far off, and their weight is high enough to cost PSNR."""
    monkeypatch.setattr(module, "WEIGHTS", (100.0,))
    work, _ = pixel_refinement()
    sets = (work.seeds.fit, work.seeds.selection)
    exact = {np.concatenate([block.target for block in parts]).tobytes() for parts in sets}
    aside = SimpleNamespace(extract=lambda samples: of_the_mean(samples) + 0.1 * (samples.tobytes() in exact))
    _, whole = FeatureTradeoff(work, aside, cost=100.0).trade()
    numbers, part = FeatureTradeoff(work, aside, cost=whole.price / 2).trade()
    assert part.weight == 100 and 0 < part.price <= whole.price / 2
    assert 0 < part.features < whole.features
    assert not np.array_equal(numbers.rows, work.origin.rows)


def test_numbers_between_two_others():
    origin = extract_recurrence(compile_plan("dpmpp_2m:3", SAMPLER.facts, 1.5), 3)
    numbers = replace(origin, rows=1.1 * origin.rows, times=origin.times + 4, lean=origin.lean + 0.2)
    half = interpolate_numbers(origin, numbers, 0.5)
    np.testing.assert_allclose(half.times, origin.times + 2)
    np.testing.assert_allclose(half.lean, 0.1)
    np.testing.assert_allclose(half.rows, 1.05 * origin.rows)


def weaker_than_targets(weaker=1.0, weaker_on_the_fit=1.0, nominal=None):
    """Return a plan of few steps, and seeds whose targets are its own samples times a factor."""
    plan = compile_plan("dpmpp_2m:3", SAMPLER.facts)
    parts = set_targets(SAMPLER, plan, blocks(range(24)))
    shares = (weaker_on_the_fit, weaker_on_the_fit, weaker)
    parts = [replace(part, target=part.required_target * share) for part, share in zip(parts, shares, strict=True)]
    return without_numbers(extract_recurrence(plan, 3), FitSeeds(tuple(parts[:2]), tuple(parts[2:])), nominal)


def without_numbers(numbers, seeds, nominal=None):
    """Return a refinement with only what the energy needs, without free numbers. nominal: PSNRs on the selection
    seeds.
    """
    worse = NominalPsnr(np.zeros(1), np.arange(8.0) if nominal is None else nominal)
    return Refinement(ROLLED, numbers, (), seeds, worse, None)


def test_all_samples_together_get_the_energy_of_their_targets():
    numbers = extract_recurrence(compile_plan("dpmpp_2m:3", SAMPLER.facts), 3)
    targets = set_targets(SAMPLER, compile_plan("dpmpp_2m:60", SAMPLER.facts), blocks(range(24)))
    strong, trade = FeatureTradeoff(without_numbers(numbers, FitSeeds(targets[:2], targets[2:])), None).trade()
    assert trade.factor == trade.energy and (trade.weight, trade.features) == (0, 0)
    before, after = (
        sum(np.square(part.sample(SAMPLER, build_plan(each))).sum() for part in targets) for each in (numbers, strong)
    )
    wanted = sum(np.square(part.required_target).sum() for part in targets)
    assert abs(before / wanted - 1) > 1e-3 and after == pytest.approx(wanted, rel=1e-5)
    np.testing.assert_array_equal(strong.rows[:-1], numbers.rows[:-1])


def test_weak_samples_are_made_stronger_by_the_factor_that_they_lack():
    _, trade = FeatureTradeoff(weaker_than_targets(1.02, 1.02), None).trade()
    assert trade.price < 0  # nearer than before
    assert trade.factor == trade.energy == pytest.approx(1.02, rel=1e-6)


def test_an_energy_that_costs_too_much_is_not_taken():
    work = weaker_than_targets(1.0, 1.02)  # exact on the selection seeds
    numbers, trade = FeatureTradeoff(work, None).trade()
    assert (trade.factor, trade.price) == (1, 0) and trade.energy > 1.005 and numbers is work.origin


@pytest.mark.parametrize(
    ("kind", "words"),
    [(NotFinite, "samples of the fitted plan are not finite"), (UserError, "it is gone; build it")],
)
def test_numbers_without_finite_samples_are_no_offer_and_another_error_is_raised(kind, words, monkeypatch):
    trader = FeatureTradeoff(weaker_than_targets(), None)
    monkeypatch.setattr(FitSampler, "sample_blocks", Mock(side_effect=kind("it is gone", "build it")))
    with pytest.raises(UserError, match=words):
        trader.trade()


def test_samples_without_energy_stay_as_they_are():
    _, trade = FeatureTradeoff(weaker_than_targets(0.0, 0.0), None).trade()
    assert trade.factor == trade.energy == 1


@pytest.mark.parametrize("share", [0.8, 1.2])
def test_the_energy_is_taken_as_far_as_its_price_allows(share):
    """Noise separates samples from their targets, so that no factor has an infinite cost. All targets are stronger,
    by a factor that costs the selection seeds a share of the price.
    """
    work = weaker_than_targets()
    (chosen,) = work.seeds.selection
    samples = chosen.required_target
    target = samples + np.random.default_rng(0).normal(0, 0.05, samples.shape).astype(np.float32)

    def price(factor):
        return float((psnr(samples, target) - psnr(np.float32(factor) * samples, target)).mean())

    factors = np.linspace(1.0, 1.2, 4001)
    factor = factors[np.searchsorted([price(each) for each in factors], share * ENERGY_COST)]
    energy = sum(float(np.square(each.required_target).sum()) for each in (*work.seeds.fit, chosen))
    rest = factor**2 * energy - float(np.square(target).sum())  # what the seeds of the fit must have
    times = np.sqrt(rest / sum(float(np.square(each.required_target).sum()) for each in work.seeds.fit))
    fit = tuple(replace(each, target=np.float32(times) * each.required_target) for each in work.seeds.fit)
    seeds = FitSeeds(fit, (replace(chosen, target=target),))
    _, trade = FeatureTradeoff(without_numbers(work.origin, seeds), None).trade()
    assert trade.energy == pytest.approx(factor, rel=1e-4)
    assert (trade.factor == trade.energy) == (share < 1)
    assert 1 < trade.factor <= trade.energy and price(trade.factor) <= ENERGY_COST
    if share > 1:  # a further quarter of the way would cost too much
        assert price(trade.factor + 0.25 * (trade.energy - 1)) > ENERGY_COST


def test_a_gain_that_would_no_longer_count_keeps_its_energy():
    work = weaker_than_targets(1.02, 1.02, nominal=np.full(8, 1000.0))
    assert FeatureTradeoff(work, None).trade()[1].factor == 1
