"""ER-SDE-Solver, compared with the paper's formulas by hand, and the effect of its noise scale."""

import math

import numpy as np
import pytest

from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from tests.plans.execute_plan import denoiser, sample, solver
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising, uniform_lambda
from tests.plans.mixture import WIDE

quad = pytest.importorskip("scipy.integrate", reason="scipy, which integrates, is not installed").quad
DRAWS = list(np.random.default_rng(0).standard_normal((20, 11)))


def phi(rho):
    """The recommended noise scale."""
    return rho * (math.exp(rho**0.3) + 10)


def by_hand(times, order):
    """The paper's y_t from y_s in sigma / alpha, its integrals by adaptive quadrature; the last time is clean."""
    y = times[0].sigma / times[0].alpha * DRAWS[0]
    rhos, x0s, slopes = [], [], []
    for index, s in enumerate(times[:-1]):
        a, b = s.sigma / s.alpha, times[index + 1].sigma / times[index + 1].alpha
        rhos.append(a)
        x0s.append(WIDE.exact_x0(s.alpha * y, s))
        if b == 0:
            return x0s[-1]
        r = phi(b) / phi(a)
        y = r * y + (1 - r) * x0s[-1] + math.sqrt(b**2 - (r * a) ** 2) * DRAWS[index + 1]
        if index >= 1:
            slopes.append((x0s[-1] - x0s[-2]) / (a - rhos[-2]))
            if order >= 2:
                y = y + (b - a + phi(b) * quad(lambda rho: 1 / phi(rho), b, a, epsabs=0)[0]) * slopes[-1]
        if index >= 2 and order == 3:
            curve = 2 * (slopes[-1] - slopes[-2]) / (a - rhos[-3])
            integral = quad(lambda rho, a=a: (rho - a) / phi(rho), b, a, epsabs=0)[0]
            y = y + ((b - a) ** 2 / 2 + phi(b) * integral) * curve
    raise AssertionError("the last time is not clean")


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("spec", [LINEAR, COSINE, FLOW], ids=lambda spec: spec.kind)
def test_samples_are_those_of_the_published_formulas(spec, order):
    times = [*uniform_lambda(spec, 7), CLEAN]
    plan = trace_plan("test", solver(f"er_sde(order={order})"), times, denoising(spec, "sample"))
    made = sample(plan, denoiser(WIDE.exact_x0, "sample", spec), lambda k: DRAWS[k], np.float64)
    assert made == pytest.approx(by_hand(times, order), abs=1e-10)
    assert np.ptp(made) > 0.5


@pytest.mark.parametrize(("order", "degree"), [(1, 0), (2, 1), (3, 1)])
def test_x0_that_is_a_polynomial_of_rho_is_integrated_exactly(order, degree):
    """Without noise a step solves dy / d rho = phi' / phi (y - x0), whose solution for a power of rho is known."""
    schedule = NoiseSchedule(FLOW)
    times = [schedule.time(t) for t in (930.0, 850.0, 720.0, 610.0)]
    rhos = [time.sigma / time.alpha for time in times]
    for power in range(degree + 2):
        plan = trace_plan("test", solver(f"er_sde(order={order})"), times, denoising(FLOW, "sample"))
        states = []

        def network(index, step, u, power=power, states=states):
            states.append(u[0])
            return [np.full(1, (step.sigma / step.alpha) ** power)]

        end = sample(plan, network, lambda k: np.zeros(1), np.float64)[0] / times[-1].alpha
        a, b = rhos[-2:]
        # y_b / phi_b = y_a / phi_a + the integral of rho^power phi' / phi^2 from b to a, by parts
        integral = quad(lambda rho, power=power: power * rho ** (power - 1) / phi(rho) if power else 0.0, b, a)[0]
        r = phi(b) / phi(a)
        exact = r * states[-1] / times[-2].alpha + b**power - r * a**power + phi(b) * integral
        off = abs(end - exact) / abs(exact)
        assert off < 1e-10 if power <= degree else off > 1e-4


def test_it_is_near_the_ode_where_little_noise_is_left():
    """phi / rho grows from 11 to 12.7 up to rho = 1, so a step draws a few percent of the noise of the reverse-time
    SDE.
    """
    plans = [compile_plan(f"{name}:8@karras(sigma_max=1, sigma_min=0.01)", denoising(FLOW, "flow")) for name in NAMES]
    fresh, of_sde = ([step.update[0][-1] for step in plan.steps if step.draws] for plan in plans)
    assert len(fresh) == len(of_sde) == 7
    assert all(0.1 < mine / its < 0.5 for mine, its in zip(fresh, of_sde, strict=True))


NAMES = ("er_sde(order=1)", "ddpm")
