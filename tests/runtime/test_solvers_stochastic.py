"""Stochastic solvers without Monte Carlo: on Gaussian data a plan is affine, so its sample's law is exact."""

import math

import numpy as np
import pytest
from gaussian import COSINE, FLOW, LINEAR, MEAN, STD, denoising, exact_output, uniform_lambda

from fewstep.runtime import solvers
from fewstep.runtime.plan import compile_plan, trace_plan
from fewstep.runtime.schedule import NoiseSchedule
from fewstep.runtime.step import sample

FAMILIES = [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")]


def moments(plan, network):
    """Mean and standard deviation of the sample, from its response to no noise and to each draw alone (a batch)."""
    draws = 1 + max(max(step.draws, default=0) for step in plan.steps)
    alone = np.eye(draws + 1)[:, 1:]  # the first of the batch has no noise, number k has draw k - 1
    mean, *responses = sample(plan, network, lambda number: alone[:, number], np.float64)
    return mean, math.sqrt(sum((response - mean) ** 2 for response in responses))


def gaussian(plan, spec):
    schedule = NoiseSchedule(spec)
    return lambda index, step, u: [exact_output(plan.prediction, u, schedule.time(step.time))]


@pytest.mark.parametrize(("spec", "prediction"), FAMILIES)
@pytest.mark.parametrize(("name", "order"), [("ddpm", 1), ("dpmpp_2m_sde", 2)])
def test_mean_and_variance_converge_to_the_exact_ones_with_the_solvers_order(name, order, spec, prediction):
    errors = []
    for steps in (64, 256):
        times = uniform_lambda(spec, steps, first=995, last=10)
        plan = trace_plan("test", getattr(solvers, name), times, denoising(spec, prediction))
        mean, std = moments(plan, gaussian(plan, spec))
        end = times[-1]
        assert mean == pytest.approx(end.alpha * MEAN, rel=2e-2)  # the start is not quite noise
        errors.append(abs(std - math.hypot(end.alpha * STD, end.sigma)))
    assert math.log2(errors[0] / errors[1]) / 2 == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("spec", "prediction"), FAMILIES)
@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde"])
def test_one_point_data_keep_their_exact_law_at_every_step(name, spec, prediction):
    """x0 = c for certain: x_t is N(alpha_t c, sigma_t^2) after any number of steps, as the SDE has it."""
    schedule = NoiseSchedule(spec)
    times = [schedule.time(t) for t in (990.0, 700.0, 500.0, 180.0, 20.0)]
    point, first, end = 0.7, times[0], times[-1]
    plan = trace_plan("test", getattr(solvers, name), times, denoising(spec, prediction))

    def network(index, step, u):
        time = schedule.time(step.time)
        eps = (u - time.alpha * point) / time.sigma
        return [{"epsilon": eps, "v": time.alpha * eps - time.sigma * point, "flow": eps - point}[prediction]]

    mean, std = moments(plan, network)
    forgotten = (end.sigma / first.sigma) * math.exp(first.lam - end.lam)  # the start has mean 0, not alpha c
    assert mean == pytest.approx(end.alpha * point - forgotten * first.alpha * point, abs=1e-12)
    assert std == pytest.approx(end.sigma, abs=1e-12)


@pytest.mark.parametrize(("spec", "prediction"), FAMILIES)
@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde"])
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_step_to_the_clean_end_adds_no_noise(name, steps, spec, prediction):
    plan = compile_plan(f"{name}:{steps}", denoising(spec, prediction))
    assert [len(step.draws) for step in plan.steps] == [1] * (steps - 1) + [0]


def test_the_first_step_of_the_second_order_sde_is_ddpm():
    second, first = (compile_plan(f"{name}:4", denoising(COSINE, "v")) for name in ("dpmpp_2m_sde", "ddpm"))
    x, _, output, noise = second.steps[0].update[0]
    assert (x, output, noise) == pytest.approx(first.steps[0].update[0], rel=1e-12)
