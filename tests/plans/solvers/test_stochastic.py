"""Stochastic solvers without Monte Carlo: on Gaussian data a plan is affine, so its sample's distribution is exact."""

import math

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.listing import solver_listings
from fewstep.plans.names.plan_name import SOLVERS
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from tests.plans.convergence import FEW_AND_MANY, grid, moments, spread_error
from tests.plans.execute_plan import solver
from tests.plans.gaussian import COSINE, FLOW, LINEAR, STD, denoising, one_point

FAMILIES = [(LINEAR, "epsilon"), (COSINE, "v"), (FLOW, "flow")]
# Forms with parameters, and their order in the sample's standard deviation.
FORMS = {
    "ddim(eta=0.5)": 1,
    "ddpm(large_variance=True)": 1,
    "dpm_2(eta=1)": 2,
    "dpm_2m_sde(midpoint=False)": 2,
    "dpmpp_2m_sde(eta=0.5)": 2,
    "dpmpp_2m_sde(midpoint=False)": 2,
    "dpmpp_2s(eta=1)": 2,
    "dpmpp_3m_sde(diffusers_sign=True)": 1,
    "dpmpp_singlestep_2(eta=1)": 0.9,
    "dpmpp_singlestep_3(eta=1)": 0.85,
    "edm_euler(s_churn=4)": 1,
    "edm_heun(s_churn=4)": 2,
    "er_sde(order=1)": 1,
    "er_sde(order=2)": 2,
    "sa_solver(predictor=1, corrector=0)": 1,
    "sa_solver(predictor=2, corrector=0)": 2,
    "sa_solver(predictor=3, corrector=3)": 2,
    "sa_solver(tau=0.6, predictor=3, corrector=0)": 2,
}
LAST = {"sa_solver(predictor=3, corrector=3)": 10}  # farther from clean its errors are of both orders
PLAIN = ("ddpm", "dpm_1_sde", "dpm_2m_sde", "dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde", "er_sde", "flow_ancestral")
PLAIN += ("sa_solver",)
ORDERS = {**{name: facts_of(SOLVERS.find(name)).order for name in PLAIN}, **FORMS}


MEASURED_ELSEWHERE = {"resshift", "score_sde_pc", "sgmse"}  # in tests of their own


def test_every_published_order_is_measured():
    noisy = {listing.name for listing in solver_listings() if listing.is_stochastic and listing.order is not None}
    assert noisy == {*PLAIN, *MEASURED_ELSEWHERE}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "order"), ORDERS.items())
def test_mean_and_variance_converge_to_the_exact_ones_with_the_solvers_order(name, order):
    errors = []
    for steps in FEW_AND_MANY:
        # Nearer to clean, some first-order errors cancel
        times = grid(FLOW, steps, first=995, last=LAST.get(name, 300))
        plan = trace_plan("test", solver(name), times, denoising(FLOW, "flow"))
        errors.append(spread_error(plan, FLOW, times[-1]))
    slope = math.log(errors[0] / errors[1]) / math.log(FEW_AND_MANY[1] / FEW_AND_MANY[0])
    assert slope == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("spec", "prediction"), [(LINEAR, "epsilon"), (COSINE, "v")])
@pytest.mark.parametrize("name", ["ddpm", "dpmpp_2m_sde", "dpmpp_sde", "dpm_2m_sde", "dpm_1_sde", "sa_solver"])
def test_mean_and_variance_come_out_on_tables_too(name, spec, prediction):
    times = grid(spec, 66, first=995, last=10)
    plan = trace_plan("test", solver(name), times, denoising(spec, prediction))
    end = times[-1]
    assert spread_error(plan, spec, end) < math.hypot(end.alpha * STD, end.sigma) * (0.07 if name == "ddpm" else 0.01)


# Those that hold x0 (or lead back to it): where x0 is known for certain, they are exact however few the steps.
EXACT_FOR_A_POINT = [
    *(name for name in ORDERS if not name.startswith(("dpm_1_sde", "dpm_2m_sde", "ddpm("))),
    "consistency",
    "renoise",
    "stochastic_distilled",
    "tcd",
    "tcd(gamma=1)",
]


@pytest.mark.parametrize("name", EXACT_FOR_A_POINT)
def test_one_point_data_keep_their_exact_law_from_pure_noise(name):
    """If x0 = c, x_t is N(alpha_t c, sigma_t^2) after any number of steps."""
    schedule, point = NoiseSchedule(FLOW), 0.7
    times = [schedule.time(t) for t in (1000.0, 900.0, 650.0, 400.0, 180.0, 20.0)]
    plan = trace_plan("test", solver(name), times, denoising(FLOW, "flow"))
    mean, std = moments(plan, one_point("flow", point))
    assert mean == pytest.approx(times[-1].alpha * point, abs=1e-12)
    assert std == pytest.approx(times[-1].sigma, abs=1e-12)


SA_FORMS = [(f"sa_solver(tau={tau}, predictor=3, corrector={c})", tau) for tau in (0.0, 0.6, 1.0) for c in (0, 3)]


@pytest.mark.parametrize(("spec", "prediction"), FAMILIES)
@pytest.mark.parametrize(("name", "tau"), [("ddpm", 1.0), ("dpmpp_2m_sde", 1.0), *SA_FORMS])
def test_one_point_data_keep_their_exact_law_at_every_step(name, tau, spec, prediction):
    """If x0 = c, x_t is N(alpha_t c, sigma_t^2) after any number of steps, as for the SDE with noise tau."""
    schedule = NoiseSchedule(spec)
    times = [schedule.time(t) for t in (990.0, 700.0, 500.0, 180.0, 20.0)]
    point, first, end = 0.7, times[0], times[-1]
    plan = trace_plan("test", solver(name), times, denoising(spec, prediction))
    mean, std = moments(plan, one_point(prediction, point))
    forgotten = end.sigma / first.sigma * math.exp(tau**2 * (first.lam - end.lam))  # the start has mean 0, not alpha c
    assert mean == pytest.approx(end.alpha * point - forgotten * first.alpha * point, abs=1e-12)
    assert std == pytest.approx(end.sigma, abs=1e-12)


@pytest.mark.parametrize("name", [*ORDERS, "consistency", "lcm", "renoise", "stochastic_distilled", "tcd"])
def test_no_step_to_the_clean_end_adds_noise(name):
    for steps in (1, 3):
        assert compile_plan(f"{name}:{steps}", denoising(COSINE, "v")).steps[-1].draws == ()


def test_ddpm_is_the_published_posterior():
    """One inner step of DDPM: Ho et al. 2020, equation 7, coefficients of x0, x and the noise."""
    schedule = NoiseSchedule(LINEAR)
    s, t = schedule.time(500), schedule.time(499)
    plan = trace_plan("test", solver("ddpm"), [s, t, CLEAN], denoising(LINEAR, "sample"))
    beta = np.linspace(1e-4, 0.02, 1000)[500]
    x0 = math.sqrt(t.alpha**2) * beta / s.sigma**2
    x = math.sqrt(1 - beta) * t.sigma**2 / s.sigma**2
    noise = t.sigma / s.sigma * math.sqrt(beta)
    assert plan.steps[0].update == (pytest.approx((x, x0, noise), rel=1e-9),)
    assert plan.steps[0].draws == (1,)


def test_the_noise_halfway_is_the_first_part_of_the_steps_own():
    """dpmpp_sde: increments of one Brownian motion over sigma / alpha, as k-diffusion draws them."""
    s, t = (NoiseSchedule(LINEAR).time(each) for each in (600, 300))
    _, step = trace_plan("test", solver("dpmpp_sde"), [s, t], denoising(LINEAR, "epsilon")).steps
    a, b, c = (each.sigma / each.alpha for each in (s, NoiseSchedule(LINEAR).time_at_lam((s.lam + t.lam) / 2), t))
    first, second = step.update[0][-2:]
    assert first**2 / second**2 == pytest.approx((a - b) / (b - c))
