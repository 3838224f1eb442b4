"""Columns are differences of whole rollouts, at the cost of partial ones."""

import numpy as np

from fewstep.fitting.blocks import run, sample
from fewstep.fitting.free import difference, free_numbers, moved
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.fitting.sensitivity import join, norms, sensitivity
from fewstep.plans.compile import compile_plan
from tests.fitting.analytic import Analytic, blocks, facts, mixture, taught

SAMPLER = Analytic(facts("cosine", "v"), mixture)
PLAN = compile_plan("dpmpp_2m:4", SAMPLER.facts, 2.0)
NUMBERS = recurrence_of(PLAN, history=3)
BLOCKS = taught(SAMPLER, compile_plan("dpmpp_2m:60@uniform_lambda", SAMPLER.facts, 2.0), blocks(range(8), size=4))
FREE = free_numbers(NUMBERS, norms(SAMPLER, NUMBERS, BLOCKS), ("rows", "told", "lean"))


def test_numbers_are_those_that_a_step_has():
    kinds = [(each.kind, each.step, each.column) for each in FREE]
    assert [column for kind, step, column in kinds if (kind, step) == ("rows", 0)] == [0, 1]
    assert [column for kind, step, column in kinds if (kind, step) == ("rows", 3)] == [0, 1, 2, 3]
    assert [step for kind, step, _ in kinds if kind == "told"] == [0, 1, 2, 3]
    assert [step for kind, step, _ in kinds if kind == "lean"] == [0, 1, 2, 3]


def test_a_number_moves_the_next_x_by_a_hundredth():
    (number,) = [each for each in FREE if (each.kind, each.step, each.column) == ("rows", 1, 0)]
    changed = plan_of(moved(NUMBERS, [number], np.array([number.size])))
    network = BLOCKS[0].network(SAMPLER, changed)
    before, after = (run(plan, BLOCKS[0], network)[2].before[0] for plan in (plan_of(NUMBERS), changed))
    ratio = np.sqrt(np.mean((after - before) ** 2) / np.mean(before**2))
    assert 0.005 < ratio < 0.02


def test_columns_are_those_of_whole_rollouts():
    block = BLOCKS[0]
    found = sensitivity(SAMPLER, NUMBERS, FREE, block)
    base = sample(SAMPLER, plan_of(NUMBERS), block).astype(np.float64).reshape(4, -1)
    columns = [
        sample(SAMPLER, plan_of(moved(NUMBERS, [each], np.array([each.size]))), block).reshape(4, -1) - base
        for each in FREE
    ]
    whole = np.stack(columns, axis=1)
    np.testing.assert_allclose(found.gram, whole @ whole.transpose(0, 2, 1), rtol=1e-4, atol=1e-9)
    residual = block.target.reshape(4, -1) - base
    np.testing.assert_allclose(found.slope, np.einsum("spd,sd->sp", whole, residual), rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(found.error, (residual**2).sum(1))


def test_a_column_costs_the_rest_of_a_rollout():
    SAMPLER.calls.clear()
    sensitivity(SAMPLER, NUMBERS, FREE, BLOCKS[0])
    per_step = {i: sum(each.step == i for each in FREE if not each.calls_its_step) for i in range(4)}
    told = [4 - i for i in range(4)]
    assert len(SAMPLER.calls) == 4 + sum(count * (3 - i) for i, count in per_step.items()) + sum(told)


def test_a_block_gives_the_same_bits_whatever_ran_before():
    together = join([sensitivity(SAMPLER, NUMBERS, FREE, block) for block in BLOCKS])
    alone = sensitivity(SAMPLER, NUMBERS, FREE, BLOCKS[1])
    np.testing.assert_array_equal(together.gram[4:], alone.gram)
    np.testing.assert_array_equal(together.slope[4:], alone.slope)


def test_the_way_back_is_the_difference():
    by = np.random.default_rng(0).standard_normal(len(FREE)) * 1e-3
    np.testing.assert_allclose(difference(moved(NUMBERS, FREE, by), NUMBERS, FREE), by)
