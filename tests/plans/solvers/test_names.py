"""Names for a solver that exists under another name: published formulas, by hand, give its samples."""

import math
from itertools import pairwise

import numpy as np
import pytest
from msgspec.structs import replace

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.publication import facts_of
from fewstep.plans.schedule import Time
from fewstep.runtime.sampling.execute import execute
from tests.plans.execute_plan import solver
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising, exact_x0, run, uniform_lambda

SPECS = [LINEAR, COSINE, FLOW]
TIMES = uniform_lambda(LINEAR, 6)
DRAWS = list(np.random.default_rng(0).standard_normal((20, 11)))


def plan_sample(solver, spec, times):
    return run(trace_plan("test", solver, times, denoising(spec, "sample")), spec, DRAWS)


def variance_exploding(spec, times, step):
    """x / alpha from one time to the next by `step(y, eps, rho_s, rho_t, index)`, as in k-diffusion's samplers."""
    y = times[0].sigma / times[0].alpha * DRAWS[0]
    for index, (s, t) in enumerate(pairwise(times)):
        eps = (s.alpha * y - s.alpha * exact_x0(s.alpha * y, s)) / s.sigma
        y = step(y, eps, s.sigma / s.alpha, t.sigma / t.alpha, index)
    return times[-1].alpha * y


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_euler_in_sigma_is_ddim(spec):
    times = uniform_lambda(spec, 7)
    euler = variance_exploding(spec, times, lambda y, eps, s, t, index: y + (t - s) * eps)
    assert plan_sample(solvers.ddim, spec, times) == pytest.approx(euler, abs=1e-12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_euler_ancestral_is_ddim_with_its_eta(spec, eta):
    def ancestral(y, eps, s, t, index):
        up = min(t, eta * math.sqrt(t**2 * (s**2 - t**2) / s**2))
        down = math.sqrt(t**2 - up**2)
        return y + (down - s) * eps + up * DRAWS[index + 1]

    times, ddim = uniform_lambda(spec, 7), solver(f"ddim(eta={eta})")
    assert plan_sample(ddim, spec, times) == pytest.approx(variance_exploding(spec, times, ancestral), abs=1e-12)


@pytest.mark.parametrize("order", [2, 3])
@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_variable_step_adams_bashforth_is_lms(spec, order):
    """Its weights by Newton's divided differences. Order 2 equals iPNDM_v's."""
    past = []  # rho and eps, newest first

    def step(y, eps, s, t, index):
        past.insert(0, (s, eps))
        h = t - s
        slope = eps
        if len(past) > 1:
            slope = slope + h / 2 * difference_quotient(past[:2])
        if order == 3 and len(past) > 2:
            slope = slope + h * (2 * h + 3 * (s - past[1][0])) / 6 * difference_quotient(past[:3])
        return y + h * slope

    def difference_quotient(points):
        if len(points) == 1:
            return points[0][1]
        return (difference_quotient(points[:-1]) - difference_quotient(points[1:])) / (points[0][0] - points[-1][0])

    times = uniform_lambda(spec, 7)
    by_hand = variance_exploding(spec, times, step)
    assert plan_sample(solver(f"lms_{order}"), spec, times) == pytest.approx(by_hand, abs=1e-11)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_the_refined_exponential_multistep_is_dpmpp_2m_with_the_exact_weight(spec):
    """RES (Zhang et al. 2023, arXiv 2308.02157) of second order: y <- e^-h y + h (b1 x0 + b2 x0_before) with b2 =
    phi_2(-h) / c2, b1 = phi_1(-h) - b2 and c2 = -h_before / h."""
    past = []  # x0 and step in lambda, newest last

    def step(y, eps, s, t, index):
        x0, h = y - s * eps, math.log(s / t)
        first = -math.expm1(-h) / h
        before = 0.0
        if past:
            before = (1 - first) / h / (-past[-1][1] / h)
        past_x0 = past[-1][0] if past else x0
        past.append((x0, h))
        return math.exp(-h) * y + h * ((first - before) * x0 + before * past_x0)

    times = uniform_lambda(spec, 7)
    by_hand = variance_exploding(spec, times, step)
    assert len(past) == 7
    assert plan_sample(solver("res_2m"), spec, times) == pytest.approx(by_hand, abs=1e-12)


def test_rectified_flow_euler_is_ddim():
    times = uniform_lambda(FLOW, 7)
    x = times[0].sigma * DRAWS[0]
    for s, t in pairwise(times):
        x0 = exact_x0(x, s)
        x = x + (t.sigma - s.sigma) * ((x - s.alpha * x0) / s.sigma - x0)
    assert plan_sample(solvers.ddim, FLOW, times) == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_dpm_2_is_the_midpoint_at_the_geometric_mean_of_sigma(spec):
    """k-diffusion's DPM2 (diffusers' KDPM2)."""

    def step(y, eps, s, t, index):
        middle = math.sqrt(s * t)
        half = y + (middle - s) * eps
        alpha = 1 / (1 + middle) if spec == FLOW else 1 / math.hypot(1, middle)
        time = Time(network=0.0, alpha=alpha, sigma=alpha * middle)
        return y + (t - s) * (half - exact_x0(alpha * half, time)) / middle

    times = uniform_lambda(spec, 7)
    by_hand = variance_exploding(spec, times, step)
    assert plan_sample(solvers.dpm_2, spec, times) == pytest.approx(by_hand, abs=1e-10)


def rows(name, steps):
    """Return every number in the updates of a plan, step by step."""
    plan = compile_plan(f"{name}:{steps}", denoising(COSINE, "v"))
    return [[number for row in step.update for number in row] for step in plan.steps]


@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("ddpm", "ddim(eta=1)"),
        ("edm_euler", "ddim"),
        ("tcd(gamma=0)", "ddim"),
        ("ctm", "ddim"),
        ("consistency", "renoise"),  # where the schedule has no sigma_min
        ("gradient_estimation(gamma=1)", "ddim"),
        ("dpmpp_2m_sde(eta=0)", "dpmpp_2m"),
        ("dpmpp_2m_sde(eta=0, midpoint=False)", "dpmpp_2m(midpoint=False)"),
        ("dpmpp_3m_sde(eta=0, midpoint=True)", "dpmpp_3m"),
        ("dpmpp_sde(eta=0)", "dpmpp_2s"),
        ("dpmpp_singlestep_2(eta=0)", "dpmpp_singlestep_2"),
        ("dpm_2(eta=0)", "dpm_2"),
        ("sa_solver(tau=0, predictor=1, corrector=0)", "ddim"),
        ("sa_solver(tau=1, predictor=1, corrector=0)", "ddpm"),
    ],
)
def test_parameters_at_an_end_are_the_simpler_solver(name, other):
    for mine, its in zip(rows(name, 6), rows(other, 6), strict=True):
        assert mine == pytest.approx(its, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("dpmpp_2m_sde", "ddpm"),
        ("dpmpp_3m_sde", "ddpm"),
        ("dpmpp_2m", "ddim"),
        ("dpmpp_3m", "ddim"),
        ("dpm_3m", "ddim"),
        ("dpmpp_singlestep_3", "ddim"),
        ("dpm_singlestep_3", "ddim"),
        ("deis_log_rho_3", "ddim"),
        ("deis_t_4", "ddim"),
        ("lms_4", "ddim"),
        ("ipndm", "ddim"),
        ("unipc_3", "ddim"),
        ("unipc_3(on_noise=True)", "ddim"),
    ],
)
def test_the_first_evaluation_of_a_higher_order_moves_as_the_first_order(name, first):
    """From x and its output to the second network input."""
    spec, x = LINEAR, [np.array([1.0, 0.0])]

    def second_input(solver_name):
        plan = trace_plan("test", solver(solver_name), TIMES, denoising(spec, "sample"))
        states = execute(plan, lambda i, step, u: [np.array([0.0, 1.0])], lambda k: x[0] * (k == 0), np.float64)
        next(states)
        return next(states).u

    assert second_input(name) == pytest.approx(second_input(first), abs=1e-12)


def test_tcd_with_gamma_1_is_nearly_renoise():
    """It goes back to timestep 0, where a little noise is left."""
    for mine, its in zip(rows("tcd(gamma=1)", 4), rows("renoise", 4), strict=True):
        assert mine == pytest.approx(its, abs=2e-2)


def test_singlestep_on_a_grid_of_even_steps_is_the_solver_that_evaluates_between():
    """Blocks of two on N times, and dpm_2 on every other time."""
    fine = uniform_lambda(FLOW, 8)
    assert plan_sample(solvers.dpm_singlestep_2, FLOW, fine) == pytest.approx(
        plan_sample(solvers.dpm_2, FLOW, fine[::2]), abs=1e-6
    )


@pytest.mark.parametrize("alias", solvers.ALIASES)
def test_aliases_are_plans_of_the_solver_they_stand_for(alias):
    denoiser = facts_of(solver(alias)).made_for or denoising(COSINE, "v")
    plan, named = (compile_plan(f"{name}:6", denoiser) for name in (alias, solvers.ALIASES[alias]))
    assert plan == replace(named, name=plan.name)
    assert alias not in solvers.__all__
