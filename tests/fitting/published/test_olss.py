"""Rows by least squares on a teacher's states."""

import numpy as np
import pytest

from fewstep.fitting.blocks import run, sample_of
from fewstep.fitting.published.olss import least_squares, lessons
from fewstep.fitting.recurrence import plan_of, recurrence_of
from fewstep.plans.compile import compile_plan
from tests.fitting.analytic import Analytic, blocks, facts, mean_psnr, mixture, taught

FAMILIES = [("cosine", "v"), ("flow", "flow"), ("edm", "edm")]


def known(kind, prediction, guidance=None):
    sampler = Analytic(facts(kind, prediction), mixture)
    teacher = compile_plan("dpmpp_2m:80@arctan", sampler.facts, guidance)
    plan = compile_plan("dpmpp_2m:4@arctan", sampler.facts, guidance)
    return sampler, teacher, plan, taught(sampler, teacher, blocks(range(32)))


@pytest.mark.parametrize(("kind", "prediction"), FAMILIES)
def test_samples_of_other_seeds_come_nearer_to_the_teacher(kind, prediction):
    sampler, teacher, plan, parts = known(kind, prediction, 1.5)
    numbers = recurrence_of(plan, 3)
    found = least_squares(sampler, numbers, parts[:2], lessons(sampler, teacher, numbers, parts[:2]), 1e-5)
    assert mean_psnr(sampler, plan_of(found), parts[2:]) > mean_psnr(sampler, plan, parts[2:]) + 1
    np.testing.assert_array_equal(found.told, numbers.told)


def test_each_step_is_the_least_squares_of_its_own_columns():
    sampler, teacher, plan, parts = known("cosine", "v")
    numbers = recurrence_of(plan, 3)
    wanted = lessons(sampler, teacher, numbers, parts[:1])
    found = plan_of(least_squares(sampler, numbers, parts[:1], wanted, 0.0))
    states = run(found, parts[0], parts[0].network(sampler, found))
    columns = [states[1].before[0], states[1].x0, states[0].x0]
    rows, *_ = np.linalg.lstsq(np.stack([each.ravel() for each in columns], 1).astype(float), wanted[0][1].ravel())
    made = sum(number * each for number, each in zip(rows, columns, strict=True))
    np.testing.assert_allclose(states[2].before[0], made, atol=1e-4)
    lacks = sample_of(found, states).reshape(8, -1) - wanted[0][3]
    np.testing.assert_allclose(np.sum(lacks * states[3].x0.reshape(8, -1)), 0, atol=1e-2)  # nothing is left along it


def test_a_strong_ridge_keeps_the_solver():
    sampler, teacher, plan, parts = known("cosine", "v")
    numbers = recurrence_of(plan, 3)
    found = least_squares(sampler, numbers, parts[:1], lessons(sampler, teacher, numbers, parts[:1]), 1e9)
    np.testing.assert_allclose(found.rows, numbers.rows, atol=1e-6)
