"""A recurrence equals the plan that it was made from; its Jacobian has the differences of whole rollouts."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.fitting import finite_differences
from fewstep.fitting.free_numbers import add_to_numbers, free_numbers, subtract_numbers
from fewstep.fitting.jacobian import column_norms, join_jacobians
from fewstep.fitting.recurrence import build_plan, extract_recurrence
from fewstep.plans.compile import compile_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Cfg, CfgPlusPlus
from fewstep.plans.shaping import Clip, Rescale
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.runtime.sampling.execute import execute, finish
from tests.fitting.analytic import Analytic, blocks, facts, mixture, set_targets

FAMILIES = [("linear", "epsilon"), ("cosine", "v"), ("flow", "flow"), ("edm", "edm"), ("linear", "sample")]
SOLVERS = ["ddim:5", "dpmpp_2m:5", "unipc_2:5", "dpmpp_3m:5", "heun:3", "lms_4:5", "dpmpp_singlestep_2:4"]
(BLOCK,) = blocks(range(4))


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_plan_comes_back_from_its_recurrence(solver, kind, prediction):
    sampler = Analytic(facts(kind, prediction), mixture)
    plan = compile_plan(solver, sampler.facts)
    again = build_plan(extract_recurrence(plan))
    expected = BLOCK.sample(sampler, plan)
    np.testing.assert_allclose(BLOCK.sample(sampler, again), expected, atol=3e-5 * np.abs(expected).max())


@pytest.mark.parametrize("shaping", [Clip(-0.6, 0.6), Rescale(0.7)])
def test_guidance_and_shaping_stay(shaping):
    sampler = Analytic(facts("cosine", "v"), mixture)
    plan = compile_plan("dpmpp_2m:4", sampler.facts, 2.0, shaping)
    again = build_plan(extract_recurrence(plan, history=3))
    np.testing.assert_allclose(BLOCK.sample(sampler, again), BLOCK.sample(sampler, plan), atol=2e-6)


@pytest.mark.parametrize("prediction", ["score", "residual"])  # of which the second predicts from y itself
def test_restoration_keeps_what_is_given(prediction):
    plan = compile_plan("dpmpp_2m:4", DenoiserFacts(ScheduleSpec("ou"), prediction, towards="y"))
    numbers = extract_recurrence(plan)
    again = build_plan(numbers)
    assert again.given == ("y",)
    assert again.rows == numbers.history + 1
    rng = np.random.default_rng(0)
    matrix, given = rng.standard_normal((16, 16)) / 32, {"y": rng.standard_normal((4, 1, 4, 4))}

    def network(index, step, u):
        return [np.tanh(u.reshape(4, 16) @ matrix + step.time / 4).reshape(u.shape)]

    samples = []
    for each in (plan, again):
        states = execute(each, network, BLOCK.draw_noise, np.float64, given)
        samples.append(finish(each, states, np.float64))
    np.testing.assert_allclose(samples[1], samples[0], rtol=1e-9, atol=1e-9)


def test_history_has_as_many_predictions_as_the_solver_reads():
    denoising = facts("flow", "flow")
    read = {
        name: extract_recurrence(compile_plan(name, denoising)).history
        for name in ("ddim:4", "dpmpp_2m:4", "unipc_2:5")
    }
    assert read == {"ddim:4": 1, "dpmpp_2m:4": 2, "unipc_2:5": 3}


def test_a_lean_is_a_change_of_the_weight_of_its_step():
    sampler = Analytic(facts("cosine", "v"), mixture)
    numbers = extract_recurrence(compile_plan("dpmpp_2m:3", sampler.facts, 2.0))
    leaning = build_plan(replace(numbers, lean=np.array([0.0, 0.25, 0.0])))
    expected = compile_plan("dpmpp_2m:3", sampler.facts, Cfg((2.0, 2.25, 2.0)))
    np.testing.assert_allclose(BLOCK.sample(sampler, leaning), BLOCK.sample(sampler, expected), atol=2e-6)


@pytest.mark.parametrize(
    ("name", "guidance", "words"),
    [("ddim(eta=0.5):4", None, "draws noise"), ("ddim:4", CfgPlusPlus(0.5), "cannot be fitted")],
)
def test_plans_that_are_no_recurrence_are_refused_in_one_line(name, guidance, words):
    with pytest.raises(UserError, match=words):
        extract_recurrence(compile_plan(name, facts("cosine", "v"), guidance))


def test_a_plan_with_light_steps_is_refused_before_the_teacher_runs():
    plan = compile_plan("ddim:4+every", replace(facts("cosine", "v"), features="features"))
    with pytest.raises(UserError, match="has light steps or carries tensors, and cannot be fitted"):
        extract_recurrence(plan)


SAMPLER = Analytic(facts("cosine", "v"), mixture)
PLAN = compile_plan("dpmpp_2m:4", SAMPLER.facts, 2.0)
NUMBERS = extract_recurrence(PLAN, history=3)
BLOCKS = set_targets(SAMPLER, compile_plan("dpmpp_2m:60@uniform_lambda", SAMPLER.facts, 2.0), blocks(range(8), size=4))
FREE = free_numbers(NUMBERS, column_norms(SAMPLER, NUMBERS, BLOCKS), ("rows", "times", "lean"))


def test_numbers_are_those_that_a_step_has():
    kinds = [(each.kind, each.step, each.column) for each in FREE]
    assert [column for kind, step, column in kinds if (kind, step) == ("rows", 0)] == [0, 1]
    assert [column for kind, step, column in kinds if (kind, step) == ("rows", 3)] == [0, 1, 2, 3]
    assert [step for kind, step, _ in kinds if kind == "times"] == [0, 1, 2, 3]
    assert [step for kind, step, _ in kinds if kind == "lean"] == [0, 1, 2, 3]


def test_a_number_moves_the_next_x_by_a_hundredth():
    (number,) = [each for each in FREE if (each.kind, each.step, each.column) == ("rows", 1, 0)]
    changed = build_plan(add_to_numbers(NUMBERS, [number], np.array([number.size])))
    network = BLOCKS[0].step_network(SAMPLER, changed)
    before, after = (list(BLOCKS[0].run(plan, network))[2].before[0] for plan in (build_plan(NUMBERS), changed))
    ratio = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
    assert 0.005 < ratio < 0.02


def whole_columns(block):
    """By the definition: the sample after a change of one number, minus the sample."""
    base = block.sample(SAMPLER, build_plan(NUMBERS)).astype(np.float64).reshape(4, -1)
    columns = [
        block.sample(SAMPLER, build_plan(add_to_numbers(NUMBERS, [each], np.array([each.size])))).reshape(4, -1) - base
        for each in FREE
    ]
    return base, np.stack(columns, axis=1)


def error_of(columns, exact):
    """Return the relative mean square error of each column."""
    lengths = np.square(exact).sum((0, 2))
    assert (lengths == 0).sum() == 1  # the first network time cannot move
    return np.sqrt(np.square(columns - exact).sum((0, 2)) / np.maximum(lengths, 1e-30))


def test_columns_are_those_of_whole_rollouts(monkeypatch):
    monkeypatch.setattr(finite_differences, "DIRECTIONS", len(FREE))
    found = finite_differences.measure_jacobian(SAMPLER, NUMBERS, FREE, BLOCKS[0])
    base, whole = whole_columns(BLOCKS[0])
    assert error_of(found.columns, whole).max() < 0.1  # differences that long are no derivatives
    residual = BLOCKS[0].target.reshape(4, -1) - base
    np.testing.assert_allclose(found.error, (residual**2).sum(1))
    np.testing.assert_allclose(found.slope, np.einsum("spd,sd->sp", found.columns, residual), rtol=1e-4, atol=1e-7)


def test_few_directions_tell_most_of_the_columns(monkeypatch):
    exact = whole_columns(BLOCKS[0])[1]
    errors = []
    for count in (2, 4, 8):
        monkeypatch.setattr(finite_differences, "DIRECTIONS", count)
        found = finite_differences.measure_jacobian(SAMPLER, NUMBERS, FREE, BLOCKS[0])
        errors.append(float(np.median(error_of(found.columns, exact))))
    assert errors[2] < errors[1] < errors[0] < 0.5


def test_columns_cost_the_directions_and_the_network_times():
    SAMPLER.calls.clear()
    finite_differences.measure_jacobian(SAMPLER, NUMBERS, FREE, BLOCKS[0])
    assert 4 + 4 < len(SAMPLER.calls) <= finite_differences.count_calls([4, 5, 6, 6]) == 4 + 4 + 4 + 8 + 8


def test_a_block_gives_the_same_bits_whatever_ran_before():
    together = join_jacobians([finite_differences.measure_jacobian(SAMPLER, NUMBERS, FREE, block) for block in BLOCKS])
    alone = finite_differences.measure_jacobian(SAMPLER, NUMBERS, FREE, BLOCKS[1])
    np.testing.assert_array_equal(together.gram[4:], alone.gram)
    np.testing.assert_array_equal(together.slope[4:], alone.slope)


def test_the_way_back_is_the_difference():
    by = np.random.default_rng(0).standard_normal(len(FREE)) * 1e-3
    np.testing.assert_allclose(subtract_numbers(add_to_numbers(NUMBERS, FREE, by), NUMBERS, FREE), by)
