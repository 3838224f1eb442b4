"""Gradient estimation, compared with the paper's formula by hand, and the gamma for which it is second order."""

import math
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from fewstep.plans.solvers.gradient_estimation import gradient_estimation
from tests.plans.convergence import STARTS
from tests.plans.gaussian import COSINE, FLOW, LINEAR, denoising, uniform_lambda
from tests.plans.mixture import WIDE, compile_solver, rms


def by_hand(times, gamma):
    """y_t = y_s + (rho_t - rho_s) times the estimate of the noise, in sigma / alpha, and x0 at the clean end."""
    y, before = times[0].sigma / times[0].alpha * STARTS, None
    for s, t in pairwise(times):
        x0 = WIDE.exact_x0(s.alpha * y, s)
        noise = (y - x0) / (s.sigma / s.alpha)
        if t.sigma == 0:
            return x0
        estimate = noise if before is None else gamma * noise + (1 - gamma) * before
        y = y + (t.sigma / t.alpha - s.sigma / s.alpha) * estimate
        before = noise
    return times[-1].alpha * y


@pytest.mark.parametrize("gamma", [1.5, 2.0, 2.4])
@pytest.mark.parametrize("end", [(), (CLEAN,)], ids=["noisy", "clean"])
@pytest.mark.parametrize("spec", [LINEAR, COSINE, FLOW], ids=lambda spec: spec.kind)
def test_samples_are_those_of_the_published_formula(spec, end, gamma):
    times = [*uniform_lambda(spec, 7), *end]
    plan = trace_plan("test", partial(gradient_estimation, gamma=gamma), times, denoising(spec, "sample"))
    assert WIDE.run(plan, spec, STARTS) == pytest.approx(by_hand(times, gamma), abs=1e-11)


def error(gamma, steps):
    """Over evenly spaced steps in rho, from 4 to 0.1."""
    schedule = NoiseSchedule(FLOW)
    times = [schedule.time_at_rho(float(rho)) for rho in np.linspace(4, 0.1, steps + 1)]
    made = WIDE.run(compile_solver(partial(gradient_estimation, gamma=gamma), times, FLOW, "flow"), FLOW, STARTS)
    return made - WIDE.flow_map(times[0].sigma * STARTS, times[0], times[-1])


@pytest.mark.parametrize(("gamma", "order"), [(1.0, 1), (1.5, 2), (2.0, 1)])
def test_order_where_steps_are_even_in_rho(gamma, order):
    few, many = (rms(error(gamma, steps)) for steps in (64, 256))
    assert math.log2(few / many) / 2 == pytest.approx(order, abs=0.25)


def test_the_errors_of_gamma_1_and_2_are_opposite():
    ddim, twice = error(1.0, 256), error(2.0, 256)
    assert rms(ddim + twice) < 0.1 * rms(ddim)
    assert rms(ddim) > 1e-4
