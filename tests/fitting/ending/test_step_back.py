"""A step back from the numbers of a fit, for the sake of features."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fewstep.fitting.blocks import sample
from fewstep.fitting.ending import step_back as module
from fewstep.fitting.ending.step_back import COST, between, step_back
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.fitting.rollouts import Rollouts
from fewstep.plans.compile import compile_plan
from fewstep.rollouts.metrics import psnr
from tests.fitting.analytic import Analytic, blocks, facts, mixture, taught

SAMPLER = Analytic(facts("cosine", "v"), mixture)
ROLLED = Rollouts(SAMPLER, SAMPLER)
PIXELS = SimpleNamespace(name="pixels", extract=lambda samples: samples.reshape(len(samples), -1))
WORSE = np.zeros(8)  # PSNRs of a nominal plan


def corrected(by):
    """The numbers of a solver, and the same with a last row that is larger by a factor."""
    origin = recurrence_of(compile_plan("dpmpp_2m:3", SAMPLER.facts), 3)
    rows = origin.rows.copy()
    rows[-1] *= 1 + by
    return origin, replace(origin, rows=rows)


def noisy(plan, share, rng):
    """A block whose targets are a plan's samples times a factor, and noise, so that no PSNR is infinite."""
    (part,) = blocks(range(8))
    made = share * sample(SAMPLER, plan, part)
    return replace(part, target=(made + rng.normal(0, 0.03, made.shape)).astype(np.float32))


def test_numbers_between_two_others():
    origin, numbers = corrected(0.1)
    numbers = replace(numbers, told=numbers.told + 4, lean=numbers.lean + 0.2)
    found = between(origin, numbers, 0.5, 0.25)
    np.testing.assert_allclose(found.told, origin.told + 2)
    np.testing.assert_allclose(found.lean, 0.05)
    np.testing.assert_allclose(found.rows[-1], 1.05 * origin.rows[-1])


def test_nothing_goes_back_where_pixels_and_features_agree():
    origin, numbers = corrected(0.1)
    block = noisy(plan_of(origin), 1.1, np.random.default_rng(0))
    found = step_back(ROLLED, numbers, origin, (block,), WORSE, PIXELS)
    assert (found.share, found.lean, found.price, found.gain) == (1, 1, 0, 0)


@pytest.mark.parametrize("reach", [0.02, 0.3])
def test_features_that_lie_halfway_bring_the_numbers_back_within_the_cost(reach):
    """Features see targets halfway. Their distance falls until there, and the PSNR with it, in a reach that is short
    or long beside the noise."""
    origin, numbers = corrected(reach)
    block = noisy(plan_of(origin), 1 + reach, np.random.default_rng(0))
    halfway = (1 + reach / 2) * sample(SAMPLER, plan_of(origin), block)

    def extract(samples):
        return PIXELS.extract(halfway if np.array_equal(samples, block.taught) else samples)

    found = step_back(ROLLED, numbers, origin, (block,), WORSE, SimpleNamespace(extract=extract))
    assert found.gain > 0 and found.gain > found.price
    near = psnr(sample(SAMPLER, plan_of(numbers), block), block.taught)
    back = psnr(sample(SAMPLER, plan_of(between(origin, numbers, found.share, found.lean)), block), block.taught)
    assert found.price == pytest.approx((near - back).mean()) and found.price <= COST
    assert found.share == pytest.approx(0.5) if reach < 0.1 else 0.5 < found.share < 1


def test_a_step_after_which_the_gain_would_not_count_is_not_taken():
    """Features gain until halfway, but the plan without a fit is nearer than the numbers are."""
    origin, numbers = corrected(0.02)
    block = noisy(plan_of(origin), 1.02, np.random.default_rng(0))
    halfway = 1.01 * sample(SAMPLER, plan_of(origin), block)

    def extract(samples):
        return PIXELS.extract(halfway if np.array_equal(samples, block.taught) else samples)

    def found(before):
        return step_back(ROLLED, numbers, origin, (block,), before, SimpleNamespace(extract=extract))

    near = psnr(sample(SAMPLER, plan_of(numbers), block), block.taught)
    assert found(WORSE).share == pytest.approx(0.5)
    assert (found(near + 1).share, found(near + 1).price, found(near + 1).gain) == (1, 0, 0)


def test_weights_of_the_guidance_may_go_back_alone(monkeypatch):
    """Pixels do not see the weights, and features see nothing else."""
    origin, numbers = corrected(0.02)
    numbers = replace(numbers, lean=numbers.lean + 0.5)
    block = replace(blocks(range(8))[0], target=np.zeros((8, 1, 2, 2), np.float32))
    asked = []

    def samples(plan, parts):
        asked.append(plan.lean[0])
        return iter([np.ones((8, 1, 2, 2), np.float32)])

    extractor = SimpleNamespace(extract=lambda made: np.full((8, 1), 1 + asked[-1] if asked else 0.0))
    monkeypatch.setattr(module, "plan_of", lambda numbers: numbers)
    found = step_back(SimpleNamespace(samples=samples), numbers, origin, (block,), np.full(8, -90.0), extractor)
    assert asked[:2] == [0.5, 0.0]  # all corrections, then those without the weights
    assert (found.share, found.lean, found.price) == (1, 0, 0)
    assert found.gain == pytest.approx(20 * np.log10(1.5))


def test_analytic_targets_are_never_further_for_it():
    origin, numbers = corrected(0.02)
    parts = taught(SAMPLER, compile_plan("dpmpp_2m:60", SAMPLER.facts), blocks(range(16)))
    found = step_back(ROLLED, numbers, origin, parts, np.zeros(16), PIXELS)
    assert found.gain >= found.price - 1e-9
