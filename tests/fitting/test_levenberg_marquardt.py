"""The result of the final refinement, on denoisers with known answers."""

from dataclasses import replace
from itertools import chain

import numpy as np
import pytest

from fewstep.fitting.jacobian import Jacobian
from fewstep.fitting.levenberg_marquardt import (
    FitSeeds,
    Gain,
    column_energies,
    is_overfitted,
    normal_equations,
    refine,
    solve_step,
)
from fewstep.fitting.recurrence import build_plan, extract_recurrence
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from fewstep.plans.solvers import ddim
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from tests.fitting.analytic import (
    X_SHAPE,
    Analytic,
    at,
    blocks,
    facts,
    flow_map,
    gaussian,
    mean_psnr,
    mixture,
    refinement,
    set_targets,
)

FAMILIES = [("linear", "epsilon"), ("cosine", "v"), ("flow", "flow"), ("edm", "edm")]


def fit_numbers(sampler, plan, fit_blocks, selection, kinds=("rows", "times"), iterations=6):
    """Return the best numbers, and those of every iteration."""
    work = refinement(sampler, plan, FitSeeds(fit_blocks, selection), kinds)
    return list(chain.from_iterable(refine(work, work.origin, iterations, measured=2)))


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
def test_on_gaussian_data_the_fitted_one_step_plan_is_the_exact_solution(kind, prediction):
    sampler = Analytic(facts(kind, prediction), gaussian())
    schedule = NoiseSchedule(sampler.facts.schedule)
    first = schedule.time_at_rho(4.0)  # where x tells of the data
    plan = trace_plan("ddim:1", ddim, [first, CLEAN], sampler.facts)
    exact = tuple(replace(part, target=flow_map(first.sigma * part.draw_noise(0), first)) for part in blocks(range(24)))
    iterates = fit_numbers(sampler, plan, exact[:2], exact[2:], kinds=("rows",), iterations=8)
    assert mean_psnr(sampler, plan, exact[2:]) < 30
    assert mean_psnr(sampler, build_plan(iterates[-1].numbers), exact[2:]) > 70


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
@pytest.mark.parametrize("guidance", [pytest.param(None, marks=pytest.mark.slow), 1.5])
def test_few_steps_come_nearer_to_many_on_seeds_that_were_not_fitted(kind, prediction, guidance):
    sampler = Analytic(facts(kind, prediction), mixture)
    teacher = compile_plan("dpmpp_2m:60@uniform_lambda" if kind != "flow" else "dpmpp_2m:100", sampler.facts, guidance)
    parts = set_targets(sampler, teacher, blocks(range(40)))
    plan = compile_plan("dpmpp_2m:4@karras" if kind == "edm" else "dpmpp_2m:4", sampler.facts, guidance)
    iterates = fit_numbers(sampler, plan, parts[:2], parts[2:4], iterations=4)
    judged = mean_psnr(sampler, build_plan(iterates[-1].numbers), parts[4:])
    assert judged > mean_psnr(sampler, plan, parts[4:]) + 3
    gains = [iterate.on_selection.mean for iterate in iterates]
    assert gains == sorted(gains)


class Restoring(Analytic):
    """A denoiser of x with (1 - alpha) y added, which it subtracts first."""

    def step_network(self, plan, samples, conditions):
        inner, schedule = super().step_network(plan, samples, conditions), NoiseSchedule(self.facts.schedule)
        return lambda index, step, u: inner(
            index, step, u - (1 - at(schedule, step.time).alpha) * np.asarray(conditions["y"])
        )


def test_restoration_is_fitted_with_its_degraded_sample():
    sampler = Restoring(DenoiserFacts(ScheduleSpec("ou"), "score", towards="y"), mixture)
    degraded = np.random.default_rng(0).uniform(-1, 1, (40, *X_SHAPE)).astype(np.float32)
    parts = [
        replace(part, conditions={"y": degraded[part.seeds.start : part.seeds.stop]}) for part in blocks(range(40))
    ]
    parts = set_targets(sampler, compile_plan("dpmpp_2m:60", sampler.facts), tuple(parts))
    plan = compile_plan("dpmpp_2m:3", sampler.facts)
    origin, found = (
        extract_recurrence(plan, 3),
        fit_numbers(sampler, plan, parts[:2], parts[2:4], iterations=4)[-1].numbers,
    )
    assert mean_psnr(sampler, build_plan(found), parts[4:]) > mean_psnr(sampler, plan, parts[4:]) + 3
    assert found.rows.shape[1] == 1 + found.history + 1  # x, predictions, y
    assert np.abs(found.rows - origin.rows)[:, -1].max() > 1e-3


def jacobian_of(matrix, residual):
    return Jacobian(matrix[None], np.zeros((1, len(residual))), residual[None])


def step(found, so_far, damping, anchor):
    return solve_step(*normal_equations(found), column_energies(found), so_far, damping, anchor)


def test_without_damping_a_step_solves_a_linear_problem():
    rng = np.random.default_rng(0)
    matrix, truth = rng.standard_normal((3, 20)), np.array([0.5, -1.0, 2.0])
    found = step(jacobian_of(matrix, truth @ matrix), np.zeros(3), damping=0.0, anchor=0.0)
    np.testing.assert_allclose(found, truth, rtol=1e-6)


def test_the_anchor_pulls_towards_the_origin_and_damping_towards_where_it_is():
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((3, 20))
    nothing_to_gain = jacobian_of(matrix, np.full(20, 1e-12))
    so_far = np.array([0.5, -1.0, 2.0])
    back = step(nothing_to_gain, so_far, damping=0.0, anchor=1e6)
    np.testing.assert_allclose(back, -so_far, rtol=1e-4)
    still = step(nothing_to_gain, np.zeros(3), damping=1e6, anchor=0.0)
    assert np.abs(still).max() < 1e-9


def test_columns_learn_from_a_step():
    rng = np.random.default_rng(3)
    truth, step_made = rng.standard_normal((3, 20)), np.array([0.3, 0.0, -0.2])
    guess = Jacobian(truth[None] + 0.1 * rng.standard_normal((1, 3, 20)), np.zeros((1, 20)), np.ones((1, 20)))
    learned = guess.broyden_update(step_made, (step_made @ truth)[None])
    np.testing.assert_allclose(step_made @ learned.columns[0], step_made @ truth, atol=1e-6)
    np.testing.assert_allclose(learned.columns[0][1], guess.columns[0][1], atol=1e-6)  # the step did not touch it
    np.testing.assert_allclose(learned.residual[0], 1 - step_made @ truth)


def test_a_gain_on_the_seeds_of_the_fit_alone_is_found_out():
    assert is_overfitted(Gain(3.0, 0.1), Gain(2.0, 0.1))
    assert not is_overfitted(Gain(3.0, 0.1), Gain(2.6, 0.01))  # under half a dB
    assert not is_overfitted(Gain(3.0, 0.5), Gain(2.0, 0.5))  # may be chance


def test_a_gain_counts_from_two_standard_errors_on():
    rng = np.random.default_rng(2)
    nominal = 30 + rng.standard_normal(64)
    assert not Gain.from_psnr(nominal + rng.standard_normal(64) * 4 + 0.01, nominal).is_significant
    assert Gain.from_psnr(nominal + 1 + rng.standard_normal(64) * 0.1, nominal).is_significant


def test_samples_of_a_block_do_not_depend_on_how_seeds_are_cut():
    sampler = Analytic(facts("flow", "flow"), mixture)
    plan = compile_plan("dpmpp_2m:4", sampler.facts)
    whole = np.concatenate([part.sample(sampler, plan) for part in blocks(range(8))])
    cut = np.concatenate([part.sample(sampler, plan) for part in blocks(range(8), size=3)])
    np.testing.assert_array_equal(whole, cut)
