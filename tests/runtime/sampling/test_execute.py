"""The executor: held parts at each step, and values that are not finite, found where the denoiser computes them."""

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.plans.compile import compile_plan
from fewstep.plans.guidance import CfgPlusPlus
from fewstep.plans.noise import normal
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import FRESH_DRAW, Hold, combine, execute, finish
from fewstep.runtime.sampling.finite_checks import finite_states
from tests.plans.execute_plan import sample, tanh
from tests.refusals import refuses

FACTS = DenoiserFacts(ScheduleSpec("cosine"), "v")
PLAN = compile_plan("dpmpp_2m:5", FACTS)
SHAPE = (2, 3)
VALUE = normal(8, 0, SHAPE)
MASK = np.array([[1.0, 0.0, 0.25], [0.0, 1.0, 0.0]], np.float32)


def draws(number):
    return normal(7, number, SHAPE)


def inputs(hold: Hold):
    states = list(execute(PLAN, tanh, draws, hold=hold))
    return [state.u for state in states], finish(PLAN, states, hold=hold)


def test_a_mask_below_1_leaves_the_sample_free() -> None:
    states = list(execute(PLAN, tanh, draws, hold=Hold(VALUE, MASK)))
    made, last = finish(PLAN, states, hold=Hold(VALUE, MASK)), finish(PLAN, states)
    np.testing.assert_array_equal(made[MASK == 1], VALUE[MASK == 1])
    np.testing.assert_array_equal(made[MASK < 1], last[MASK < 1])
    free = sample(PLAN, tanh, draws)
    assert (made[0, 2] != free[0, 2]) and (made[0, 1] == free[0, 1])  # blended on the way; and never


def test_a_clean_value_is_put_back_as_it_is() -> None:
    seen, made = inputs(Hold(VALUE, MASK, clean=True))
    for u in seen:
        np.testing.assert_array_equal(u[MASK == 1], VALUE[MASK == 1])
    np.testing.assert_array_equal(made[MASK == 1], VALUE[MASK == 1])


def test_each_step_has_a_value_of_its_own() -> None:
    values = tuple(normal(8, draw, SHAPE) for draw in range(6))
    seen, made = inputs(Hold(values, MASK, clean=True))
    for u, value in zip(seen, values, strict=False):
        np.testing.assert_array_equal(u[MASK == 1], value[MASK == 1])
    np.testing.assert_array_equal(made[MASK == 1], values[5][MASK == 1])
    noised, _ = inputs(Hold(values, MASK))
    for step, u, value in zip(PLAN.steps, noised, values, strict=False):
        held = np.float32(step.alpha) * value + np.float32(step.sigma) * draws(0)
        np.testing.assert_array_equal(u[MASK == 1], held[MASK == 1])


def test_a_fresh_hold_has_a_draw_for_each_step() -> None:
    seen, _ = inputs(Hold(VALUE, MASK, fresh=True))
    for place, (step, u) in enumerate(zip(PLAN.steps, seen, strict=True)):
        noise = draws(FRESH_DRAW + 5 - place)
        held = np.float32(step.alpha) * VALUE + np.float32(step.sigma) * noise
        np.testing.assert_array_equal(u[MASK == 1], held[MASK == 1])


@pytest.mark.parametrize("is_clean", [False, True])
def test_an_unheld_step_keeps_its_noise_unless_the_value_is_clean(is_clean: bool) -> None:
    first, *others = PLAN.steps
    plan = replace(PLAN, steps=(replace(first, unheld=True), *others))
    hold = Hold(VALUE, MASK, clean=is_clean)
    (start, *_), (start_held, second_held, *_) = (
        [state.u for state in execute(each, tanh, draws, hold=hold)] for each in (plan, PLAN)
    )
    free, *_ = [state.u for state in execute(plan, tanh, draws)]
    np.testing.assert_array_equal(start, start_held if is_clean else free)
    second = [state.u for state in execute(plan, tanh, draws, hold=hold)][1]
    np.testing.assert_array_equal(second[MASK == 1], second_held[MASK == 1])


def test_one_draw_is_made_once() -> None:
    asked = []

    def count_draw(number):
        asked.append(number)
        return draws(number)

    list(execute(PLAN, tanh, count_draw, hold=Hold(VALUE, MASK)))
    assert asked.count(0) <= 2  # of the start, and of the hold


GUIDED = DenoiserFacts(ScheduleSpec("cosine"), "epsilon", guided=True)
X = np.ones((1, 1, 2, 2), np.float32)


@pytest.mark.parametrize("bad", range(9))
@pytest.mark.parametrize("branch", [0, 1])
def test_every_output_is_looked_at(bad: int, branch: int) -> None:
    """rk4 with CFG++ does not read the conditional branch of some inner evaluations."""
    plan = compile_plan("rk4:3", GUIDED, CfgPlusPlus(0.5))

    def network(index, step, u):
        outputs = [np.tanh(u), np.tanh(u) / 2][: len(step.branches)]
        outputs[branch] = outputs[branch] * np.float32(np.nan if index == bad else 1)
        return outputs

    assert all(len(step.branches) == 2 for step in plan.steps) and len(plan.steps) == 9
    with refuses(("not finite", f"step {bad + 1} of 9")):
        list(finite_states(execute(plan, network, lambda draw: X, np.float32), plan))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32])
def test_a_combination_has_the_bits_of_products_with_python_floats(dtype: type) -> None:
    row = (0.0, 1.0288854, 1.0, -0.085906783, 0.0)
    arrays = [np.arange(1, 13).reshape(3, 4).astype(dtype) * dtype(place) for place in range(5)]
    made = combine(row, arrays, np.float32)
    expected = arrays[1] * row[1] + arrays[2] + arrays[3] * row[3]
    assert made.dtype == expected.dtype
    np.testing.assert_array_equal(made, expected)


def test_a_combination_of_other_than_its_columns_is_an_error() -> None:
    with pytest.raises(ValueError, match="2 coefficients for 1 arrays"):
        combine((1.0, 2.0), [X], np.float32)
