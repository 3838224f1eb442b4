"""Functions that multistep solvers integrate exactly: a polynomial of the degree that their history determines, in
one step.
"""

import math
from itertools import pairwise

import numpy as np
import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.exponential import phi
from fewstep.plans.solvers.unipc import _weights
from fewstep.runtime.sampling.execute import execute, finish
from tests.plans.execute_plan import record_inputs, solver
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising

UNEVEN = (930.0, 850.0, 720.0, 610.0, 430.0, 300.0, 180.0)


def inputs(name, spec, prediction, output):
    """Return the network inputs of a solver at `UNEVEN` times (the last is its sample), on a network of the time
    only: `output(time)`.
    """
    schedule = NoiseSchedule(spec)
    times = [schedule.time(t) for t in UNEVEN]
    plan = trace_plan("test", solver(name), times, denoising(spec, prediction))
    outputs = [[np.array([output(schedule.time(step.time))])] for step in plan.steps]
    made, seen = record_inputs(plan, outputs, [np.array([0.3])])
    return times, [*(u[0] for u in seen), made[0]]


def residual(times, xs, last_step):
    """Return the relative distance of the last step to the exact one of `last_step(s, t)`, for equal x at s."""
    scale, exact = last_step(times[-2], times[-1])
    return abs(xs[-1] - (scale * xs[-2] + exact)) / abs(exact)


def steps_of(name, times, xs, evaluations):
    """Return the ends of the steps, and x there. Singlestep solvers evaluate between them, on the grid itself if so
    named.
    """
    return (times[::evaluations] if "singlestep" in name else times), xs[::evaluations]


def integral(power, lam, sign):
    """The antiderivative of e^(sign lam) lam^power."""
    return math.exp(sign * lam) * sum(
        sign ** (k + 1) * (-1) ** k * math.perm(power, k) * lam ** (power - k) for k in range(power + 1)
    )


def on_x0(power, schedule=None):
    """x_t from x_s for x0 = lambda^power: x_t = sigma_t / sigma_s x_s + sigma_t int e^lambda x0 d lambda."""
    return lambda s, t: (t.sigma / s.sigma, t.sigma * (integral(power, t.lam, 1) - integral(power, s.lam, 1)))


def on_noise_in_lambda(power, schedule):
    """For eps = lambda^power: x_t = alpha_t / alpha_s x_s - alpha_t int e^-lambda eps d lambda."""
    return lambda s, t: (t.alpha / s.alpha, -t.alpha * (integral(power, t.lam, -1) - integral(power, s.lam, -1)))


def on_noise_in_rho(power, schedule):
    """For eps = rho^power."""

    def last_step(s, t):
        a, b = s.sigma / s.alpha, t.sigma / t.alpha
        return t.alpha / s.alpha, t.alpha * (b ** (power + 1) - a ** (power + 1)) / (power + 1)

    return last_step


def on_noise_in_t(power, schedule):
    """For eps = (t / 1000)^power: by parts, so that only rho(t) is integrated, between whole timesteps."""
    points, weights = np.polynomial.legendre.leggauss(12)

    def rho(t):
        return math.exp(-schedule.lam(t))

    def last_step(s, t):
        lower = np.arange(t.network, s.network)
        at = (lower[:, None] + (points + 1) / 2).ravel()
        inside = np.array([rho(each) for each in at]) * power * (at / 1000) ** max(power - 1, 0) / 1000
        parts = rho(t.network) * (t.network / 1000) ** power - rho(s.network) * (s.network / 1000) ** power
        return t.alpha / s.alpha, t.alpha * (parts + float(inside @ np.tile(weights / 2, len(lower))))

    return last_step


# The variable of the polynomial, the exact step, and solvers with their degree and their evaluations a step
OF_X0 = ("sample", lambda time: time.lam, on_x0)
OF_NOISE = ("epsilon", lambda time: time.lam, on_noise_in_lambda)
IN_RHO = ("epsilon", lambda time: time.sigma / time.alpha, on_noise_in_rho)
IN_T = ("epsilon", lambda time: time.network / 1000, on_noise_in_t)
DEGREES = [
    (OF_X0, "ddim", 0, 1),
    (OF_X0, "dpmpp_2s", 0, 2),
    (OF_X0, "dpmpp_3s", 1, 3),
    (OF_X0, "dpmpp_2m", 0, 1),
    (OF_X0, "dpmpp_2m(midpoint=False)", 1, 1),
    (OF_X0, "dpmpp_3m", 1, 1),
    (OF_X0, "dpmpp_3m_exact", 2, 1),
    (OF_X0, "dpmpp_2m_sde(eta=0, midpoint=False)", 1, 1),
    (OF_X0, "dpmpp_3m_sde(eta=0)", 1, 1),
    (OF_X0, "dpmpp_singlestep_2", 0, 2),
    (OF_X0, "dpmpp_singlestep_2(midpoint=False)", 1, 2),
    (OF_X0, "dpmpp_singlestep_3", 1, 3),
    (OF_X0, "dpmpp_singlestep_3(midpoint=False)", 2, 3),
    (OF_NOISE, "deis_log_rho_2", 1, 1),
    (OF_NOISE, "deis_log_rho_3", 2, 1),
    (OF_NOISE, "dpm_2", 0, 2),
    (OF_NOISE, "dpm_3", 1, 3),
    (OF_NOISE, "dpm_2m", 0, 1),
    (OF_NOISE, "dpm_2m(midpoint=False)", 1, 1),
    (OF_NOISE, "dpm_3m", 1, 1),
    (OF_NOISE, "dpm_singlestep_2", 0, 2),
    (OF_NOISE, "dpm_singlestep_2(midpoint=False)", 1, 2),
    (OF_NOISE, "dpm_singlestep_3", 1, 3),
    (OF_NOISE, "dpm_singlestep_3(midpoint=False)", 2, 3),
    *((IN_RHO, f"lms_{order}", order - 1, 1) for order in (2, 3, 4)),
    *((IN_T, f"deis_t_{order}", order - 1, 1) for order in (2, 3, 4)),
]


@pytest.mark.parametrize("spec", [LINEAR, COSINE, FLOW], ids=lambda spec: spec.kind)
@pytest.mark.parametrize(("of", "name", "degree", "evaluations"), DEGREES, ids=[name for _, name, _, _ in DEGREES])
def test_a_polynomial_through_the_history_is_integrated_exactly(of, name, degree, evaluations, spec):
    prediction, variable, exact = of
    for power in range(degree + 2):
        times, xs = inputs(name, spec, prediction, lambda time, power=power: variable(time) ** power)
        off = residual(*steps_of(name, times, xs, evaluations), exact(power, NoiseSchedule(spec)))
        assert off < 1e-10 if power <= degree else off > 1e-3


@pytest.mark.parametrize("spec", [LINEAR, COSINE, FLOW], ids=lambda spec: spec.kind)
@pytest.mark.parametrize(
    ("name", "degree"), [("unipc_1", 0), ("unipc_2", 0), ("unipc_2(bh1=True)", 0), ("unipc_3", 2), ("unipc_4", 3)]
)
def test_unipc_steps_are_exact_where_x0_is_a_polynomial_of_lambda(name, degree, spec):
    """After the warm-up no step adds to the error: it shrinks with sigma, as the ODE propagates it."""
    for power in range(degree + 1):
        times, xs = inputs(name, spec, "sample", lambda time, power=power: time.lam**power)
        exact, errors = 0.3 * times[0].sigma, []
        for (s, t), x in zip(pairwise(times), xs[1:]):
            scale, gained = on_x0(power)(s, t)
            exact = scale * exact + gained
            errors.append((x - exact) / t.sigma)
        assert errors[3:] == pytest.approx([errors[3]] * len(errors[3:]), abs=1e-10)


@pytest.mark.parametrize("B", [math.expm1, float], ids=["bh2", "bh1"])
@pytest.mark.parametrize(("order", "degree"), [(1, 0), (2, 2), (3, 3)])
def test_unic_is_exact_to_its_degree(order, degree, B):
    """The corrector alone, from its weights: nodes in the past, and the end of the step."""
    s, h = -1.3, 0.7
    rs = [-0.8, -1.9][: order - 1] + [1.0]
    for power in range(degree + 2):
        m0, m = s**power, [(s + r * h) ** power for r in rs]
        D1s = [(value - m0) / r for r, value in zip(rs, m)]
        made = -math.expm1(-h) * m0 - B(-h) * sum(rho * D1 for rho, D1 in zip(_weights(rs, -h, B(-h)), D1s))
        exact = (integral(power, s + h, 1) - integral(power, s, 1)) / math.exp(s + h)
        off = abs(made - exact) / abs(exact)
        assert off < 1e-10 if power <= degree else off > 1e-4


@pytest.mark.parametrize("z", [-40.0, -3.0, -1.0, -0.999, -1e-3, 1e-12, 0.5, 1.0, 12.0])
def test_phi_is_its_integral(z):
    """phi_k(z) = int_0^1 e^((1 - u) z) u^(k-1) / (k-1)! du."""
    points, weights = np.polynomial.legendre.leggauss(60)
    u = (points + 1) / 2
    for k in (1, 2, 3, 4):
        exact = weights / 2 @ (np.exp((1 - u) * z) * u ** (k - 1)) / math.factorial(k - 1)
        assert phi(k, z) == pytest.approx(exact, rel=1e-12)


def nonlinear_case(name, prediction):
    """Return times, a nonlinear network, its first input, and the sample of a solver."""
    network, times = lambda x, t: np.tanh(x * (1 + t / 1000)), [NoiseSchedule(LINEAR).time(t) for t in (930, 610, 300)]
    plan, x = trace_plan("test", solver(name), times, denoising(LINEAR, prediction)), np.linspace(-2, 2, 5)
    states = list(execute(plan, lambda i, step, u: [network(u, step.time)], lambda n: x, np.float64))
    return times, network, states[0].u, finish(plan, states, np.float64)


def test_dpm_solver_3_is_algorithm_2_of_its_paper():
    """Lu et al. 2022, arXiv 2206.00927, with r1 = 1/3 and r2 = 2/3."""
    times, eps, x, made = nonlinear_case("dpm_3", "epsilon")
    for s, t in pairwise(times):
        h, e = t.lam - s.lam, eps(x, s.network)
        u1, u2 = (NoiseSchedule(LINEAR).time_at_lam(s.lam + r * h) for r in (1 / 3, 2 / 3))
        first = u1.alpha / s.alpha * x - u1.sigma * np.expm1(h / 3) * e
        second = u2.alpha / s.alpha * x - u2.sigma * np.expm1(2 * h / 3) * e
        second -= 2 * u2.sigma * (np.expm1(2 * h / 3) / (2 * h / 3) - 1) * (eps(first, u1.network) - e)
        last = 1.5 * t.sigma * (np.expm1(h) / h - 1) * (eps(second, u2.network) - e)
        x = t.alpha / s.alpha * x - t.sigma * np.expm1(h) * e - last
    np.testing.assert_allclose(made, x, rtol=1e-9)


def test_dpm_solver_pp_2s_is_algorithm_1_of_its_paper():
    """Lu et al. 2022, arXiv 2211.01095, with r = 1/2, where D is the x0 at the middle."""
    times, x0, x, made = nonlinear_case("dpmpp_2s", "sample")
    for s, t in pairwise(times):
        u = NoiseSchedule(LINEAR).time_at_lam((s.lam + t.lam) / 2)
        halfway = u.sigma / s.sigma * x - u.alpha * np.expm1(s.lam - u.lam) * x0(x, s.network)
        x = t.sigma / s.sigma * x - t.alpha * np.expm1(s.lam - t.lam) * x0(halfway, u.network)
    np.testing.assert_allclose(made, x, rtol=1e-9)
