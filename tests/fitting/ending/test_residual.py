"""Steps that come near to features and pixels at once."""

from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.fitting import endpoint
from fewstep.fitting.blocks import sample
from fewstep.fitting.ending import residual
from fewstep.fitting.ending.residual import WEIGHTS, FeatureColumns, feature_columns, feature_residual, step_of
from fewstep.fitting.endpoint import Nominal, Refinement, Seeds, energies_of, refine
from fewstep.fitting.free import free_numbers
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.fitting.sensitivity import Sensitivity, join, norms
from fewstep.plans.compile import compile_plan
from fewstep.rollouts.metrics import psnr
from tests.fitting.analytic import X_SHAPE, Analytic, blocks, facts, mixture, taught

RNG = np.random.default_rng(0)
MATRIX = RNG.normal(size=(16, 3))
LINEAR = SimpleNamespace(extract=lambda samples: (samples.reshape(len(samples), -1) @ MATRIX).astype(np.float32))
SAMPLER = Analytic(facts("cosine", "v"), mixture)
NO_WAY = np.zeros(4)


def random_sensitivity(seeds=5, numbers=4):
    columns = RNG.normal(size=(seeds, numbers, 16)).astype(np.float32)
    samples, targets = RNG.normal(size=(2, seeds, 16)).astype(np.float32)
    return Sensitivity(columns, samples, targets)


def test_columns_of_linear_features_are_those_of_samples_through_the_matrix():
    found = random_sensitivity()
    seen = feature_columns(LINEAR, found, X_SHAPE)
    np.testing.assert_allclose(seen.columns, found.columns @ MATRIX, atol=1e-3)
    np.testing.assert_allclose(seen.residual, found.residual @ MATRIX, atol=1e-5)


def test_without_weight_a_step_is_that_of_pixels():
    found = random_sensitivity()
    energies, so_far = energies_of(found), RNG.normal(size=4)
    seen = feature_columns(LINEAR, found, X_SHAPE)
    plain = endpoint.step_of(found, energies, so_far, 0.1, 0.01)
    np.testing.assert_allclose(step_of(found, seen, 0.0, energies, so_far, (0.1, 0.01)), plain)


def test_with_a_large_weight_a_step_solves_for_the_features():
    found, truth = random_sensitivity(), np.array([0.5, -1.0, 2.0, 0.1])
    columns = RNG.normal(size=(5, 4, 3))
    seen = FeatureColumns(columns, np.einsum("spd,p->sd", columns, truth))
    step = step_of(found, seen, 1e6, energies_of(found), NO_WAY, (0.0, 0.0))
    np.testing.assert_allclose(step, truth, rtol=1e-4)


def test_the_step_is_down_the_slope_of_both_logarithms():
    """A small step along a random way changes the objective as the solved slope says."""
    found, weight = random_sensitivity(), 0.7
    seen = feature_columns(LINEAR, found, X_SHAPE)

    def objective(by):
        error = np.square(found.residual - np.einsum("spd,p->sd", found.columns, by)).sum(axis=1)
        features = np.square(seen.residual - np.einsum("spd,p->sd", seen.columns, by)).sum(axis=1)
        return np.log(error).mean() + weight * np.log(features.mean())

    slope = np.array([objective(1e-4 * unit) - objective(-1e-4 * unit) for unit in np.eye(4)]) / 2e-4
    energies, huge = energies_of(found), 1e9  # the restraint alone is left of the matrix
    step = step_of(found, seen, weight, energies, NO_WAY, (0.0, huge)) * huge * energies
    np.testing.assert_allclose(step / step[0], slope / slope[0], rtol=1e-4)


def fitted_to_pixels(guidance=None):
    """A refinement of pixels, and what its last stage begins with."""
    rolled = Rollouts(SAMPLER, SAMPLER)
    parts = taught(SAMPLER, compile_plan("dpmpp_2m:60", SAMPLER.facts, guidance), blocks(range(56)))
    seeds, judges = Seeds(parts[:3], parts[3:5]), parts[5:]
    plan = compile_plan("dpmpp_2m:3", SAMPLER.facts, guidance)
    origin = recurrence_of(plan, 3)
    free = free_numbers(origin, norms(SAMPLER, origin, seeds.fit), ("rows", "told"))
    nominal = Nominal(rolled.qualities(plan, seeds.fit), rolled.qualities(plan, seeds.selection))

    def measure(numbers, some):
        return join(list(rolled.columns(numbers, free, some)))

    *_, best = refine(Refinement(rolled, origin, free, seeds, nominal, measure), origin, 3, measured=2)
    return Refinement(rolled, best.numbers, free, seeds, nominal, measure), judges


def of_the_mean(samples):
    """Features that see little of a sample: its mean, and that of its upper half."""
    rows = samples.reshape(len(samples), -1)
    return np.stack([rows.mean(axis=1), rows[:, :8].mean(axis=1)], axis=1)


def distance(numbers, parts):
    made, exact = (
        np.concatenate(each)
        for each in zip(*((sample(SAMPLER, plan_of(numbers), part), part.target) for part in parts), strict=True)
    )
    apart = np.square(of_the_mean(made) - of_the_mean(exact)).sum(axis=1).mean()
    return float(psnr(made, exact).mean()), -10 * float(np.log10(apart))


@pytest.mark.parametrize("guidance", [None, 1.5])
def test_features_of_seeds_that_nothing_was_chosen_on_come_nearer_within_the_cost(guidance):
    work, judges = fitted_to_pixels(guidance)
    numbers, found = feature_residual(work, SimpleNamespace(extract=of_the_mean), cost=0.5)
    assert found.weight in WEIGHTS and found.price <= 0.5 and found.gain > 1
    before, after = distance(work.origin, work.seeds.selection), distance(numbers, work.seeds.selection)
    assert (before[0] - after[0], after[1] - before[1]) == pytest.approx((found.price, found.gain))
    assert distance(numbers, judges)[1] > distance(work.origin, judges)[1] + 0.5


def test_numbers_stay_where_nothing_may_be_paid():
    work, _ = fitted_to_pixels()
    numbers, found = feature_residual(work, SimpleNamespace(extract=of_the_mean), cost=-100.0)
    assert numbers is work.origin and (found.weight, found.price, found.gain) == (0, 0, 0)


def test_a_step_that_costs_too_much_is_taken_in_part(monkeypatch):
    """Features of the teacher's samples lie aside, and weigh so much that they cost PSNR."""
    monkeypatch.setattr(residual, "WEIGHTS", (100.0,))
    work, _ = fitted_to_pixels()
    sets = (work.seeds.fit, work.seeds.selection)
    exact = {np.concatenate([block.target for block in parts]).tobytes() for parts in sets}
    aside = SimpleNamespace(extract=lambda samples: of_the_mean(samples) + 0.1 * (samples.tobytes() in exact))
    _, whole = feature_residual(work, aside, cost=100.0)
    numbers, found = feature_residual(work, aside, cost=whole.price / 2)
    assert found.weight == 100 and 0 < found.price <= whole.price / 2
    assert 0 < found.gain < whole.gain
    assert not np.array_equal(numbers.rows, work.origin.rows)
