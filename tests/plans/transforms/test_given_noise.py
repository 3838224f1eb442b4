"""Noise from the caller: the same plan from the same numbers, and a chosen start."""

import msgspec
import numpy as np
import pytest

from fewstep.plans.compile import compile_plan
from fewstep.plans.noise import normal
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.transforms import tail, use_given_noise
from fewstep.runtime.sampling.execute import Hold
from tests.plans.execute_plan import sample, tanh
from tests.refusals import refuses

SHAPE = (1, 8, 8)
FACTS = DenoiserFacts(ScheduleSpec("cosine"), "v")


def draws(number):
    return normal(3, number, SHAPE)


@pytest.mark.parametrize("name", ["ddim:4", "ddpm:4", "dpmpp_3m_sde:5"])
def test_the_seed_s_own_noise_gives_the_seed_s_sample(name) -> None:
    plan = compile_plan(name, FACTS)
    made = sample(use_given_noise(plan), tanh, draws, given={"noise": draws(0)})
    np.testing.assert_array_equal(made, sample(plan, tanh, draws))


def test_over_an_image_it_is_the_image_s_noise() -> None:
    plan, image = compile_plan("ddim:4", FACTS, strength=0.5), normal(9, 0, SHAPE)
    assert use_given_noise(plan).given == ("image", "noise")
    made = sample(use_given_noise(plan), tanh, draws, given={"image": image, "noise": draws(0)})
    np.testing.assert_array_equal(made, sample(plan, tanh, draws, given={"image": image}))


def test_a_hold_is_noised_by_the_noise_that_is_passed() -> None:
    plan, hold = compile_plan("ddim:4", FACTS), Hold(normal(9, 0, SHAPE), np.triu(np.ones((8, 8), np.float32)))
    made = sample(use_given_noise(plan), tanh, lambda number: draws(1), given={"noise": draws(0)}, hold=hold)
    np.testing.assert_array_equal(made, sample(plan, tanh, draws, hold=hold))


def test_plans_that_draw_no_start_are_refused() -> None:
    plan = compile_plan("ddim:4", FACTS)
    twice = msgspec.structs.replace(plan.steps[0], draws=(0,), update=((*plan.steps[0].update[0], 1.0),))
    for refused in (tail(plan, 1), msgspec.structs.replace(plan, steps=(twice, *plan.steps[1:]))):
        with refuses(repr(refused.name), "ddim:8"):
            use_given_noise(refused)
