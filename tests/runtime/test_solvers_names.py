"""Names that are no solver of their own: published formulas, run by hand, that give the samples of another name."""

import math
from itertools import pairwise

import numpy as np
import pytest
from gaussian import COSINE, FLOW, LINEAR, denoising, exact_x0, run, uniform_lambda

from fewstep.runtime import solvers
from fewstep.runtime.plan import trace_plan
from fewstep.runtime.schedule import Time

SPECS = [LINEAR, COSINE, FLOW]
DRAWS = list(np.random.default_rng(0).standard_normal((20, 11)))


def plan_sample(solver, spec, times):
    return run(trace_plan("test", solver, times, denoising(spec, "sample")), spec, DRAWS)


def variance_exploding(spec, times, step):
    """x / alpha from one time to the next by `step(y, eps, rho_s, rho_t, index)`, as k-diffusion's samplers have it."""
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

    times = uniform_lambda(spec, 7)

    def solver(sampler, times):
        return solvers.ddim(sampler, times, eta)

    assert plan_sample(solver, spec, times) == pytest.approx(variance_exploding(spec, times, ancestral), abs=1e-12)


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.kind)
def test_variable_step_adams_bashforth_is_lms(spec):
    """iPNDM_v of order 2."""
    before = {}

    def step(y, eps, s, t, index):
        slope = eps
        if before:
            slope = eps + (t - s) / (2 * before["step"]) * (eps - before["eps"])
        before.update(eps=eps, step=t - s)
        return y + (t - s) * slope

    times = uniform_lambda(spec, 7)
    by_hand = variance_exploding(spec, times, step)
    assert plan_sample(solvers.lms_2, spec, times) == pytest.approx(by_hand, abs=1e-12)


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
