"""Every solver against closed forms: Gaussian data, exact denoiser, float64."""

import math

import numpy as np
import pytest

from fewstep.plans import solvers
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import NoiseSchedule, Time
from tests.plans.gaussian import COSINE, FAMILIES, FLOW, LINEAR, MEAN, STD, denoising, flow_map, run, uniform_lambda

STARTS = np.linspace(-2.5, 2.5, 11)


def error(solver, spec, prediction, steps):
    """Root mean square distance to the exact trajectory's end, over starts that cover the noise."""
    times = uniform_lambda(spec, steps)
    plan = trace_plan("test", solver, times, denoising(spec, prediction))
    exact = flow_map(times[0].sigma * STARTS, times[0], times[-1])
    return math.sqrt(np.mean((run(plan, spec, [STARTS]) - exact) ** 2))


@pytest.mark.parametrize(("spec", "prediction"), FAMILIES)
@pytest.mark.parametrize(
    ("solver", "order"), [(solvers.ddim, 1), (solvers.dpmpp_2m, 2), (solvers.heun, 2)], ids=["ddim", "dpmpp_2m", "heun"]
)
def test_solver_converges_with_its_order(solver, order, spec, prediction):
    few, many = (error(solver, spec, prediction, steps) for steps in (128, 256))
    assert many < 5e-3
    assert math.log2(few / many) == pytest.approx(order, abs=0.15)


def moments(plan, spec, draws):
    """Exact mean and variance of an affine plan's sample: its response to zero, then to each draw alone."""
    zero = [np.zeros(1)] * draws
    mean = run(plan, spec, zero)[0]
    response = [
        run(plan, spec, [np.ones(1) if k == j else np.zeros(1) for k in range(draws)])[0] - mean for j in range(draws)
    ]
    return mean, sum(r**2 for r in response)


def test_ddpm_has_the_exact_marginal_in_the_limit_and_converges_to_it_with_order_one():
    errors = []
    for steps in (64, 128):
        times = uniform_lambda(LINEAR, steps, first=999, last=1)
        plan = trace_plan("test", solvers.ddpm, times, denoising(LINEAR, "epsilon"))
        mean, variance = moments(plan, LINEAR, steps + 1)
        end = times[-1]
        exact = end.alpha**2 * STD**2 + end.sigma**2
        assert mean == pytest.approx(end.alpha * MEAN, rel=2e-2)
        errors.append(abs(math.sqrt(variance) - math.sqrt(exact)))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(1.0, abs=0.15)


def test_ddpm_is_the_published_posterior():
    """One inner step of DDPM: Ho et al. 2020, equation 7, coefficients of x0, x and the noise."""
    schedule = NoiseSchedule(LINEAR)
    s, t = schedule.time(500), schedule.time(499)
    plan = trace_plan("test", solvers.ddpm, [s, t, Time(0.0, 1.0, 0.0)], denoising(LINEAR, "sample"))
    beta = np.linspace(1e-4, 0.02, 1000)[500]
    x0 = math.sqrt(t.alpha**2) * beta / s.sigma**2
    x = math.sqrt(1 - beta) * t.sigma**2 / s.sigma**2
    noise = t.sigma / s.sigma * math.sqrt(beta)
    assert plan.steps[0].update == (pytest.approx((x, x0, noise), rel=1e-9),)
    assert plan.steps[0].draws == (1,)


def test_dpmpp_2m_first_step_is_ddim():
    two_m, ddim = (compile_plan(f"{name}:5", denoising(COSINE, "v")) for name in ("dpmpp_2m", "ddim"))
    assert two_m.steps[0].update[0][0] == pytest.approx(ddim.steps[0].update[0][0], rel=1e-12)
    assert two_m.steps[0].update[0][2] == pytest.approx(ddim.steps[0].update[0][1], rel=1e-12)


def test_times_must_lose_noise():
    schedule = NoiseSchedule(LINEAR)
    times = [schedule.time(t) for t in (900, 500, 500, 100)]
    with pytest.raises(UserError, match="times 500, 500 do not lose noise"):
        trace_plan("test", solvers.ddim, times, denoising(LINEAR, "epsilon"))


def test_epsilon_cannot_start_a_flow():
    with pytest.raises(UserError, match="epsilon prediction says nothing"):
        compile_plan("ddim:4", denoising(FLOW, "epsilon"))


@pytest.mark.parametrize(("spec", "prediction"), [(FLOW, "v"), (LINEAR, "flow")])
def test_a_prediction_foreign_to_the_schedule_is_refused(spec, prediction):
    with pytest.raises(UserError, match="prediction on a schedule"):
        compile_plan("ddim:4", denoising(spec, prediction))
