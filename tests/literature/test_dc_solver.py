"""DC-Solver: UniPC where nothing is compensated, nearer to the trajectory where the fit says how much."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.dc_solver import dc_solver
from fewstep.literature.fits.compensation import fit_ratios
from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.execute import execute, finish
from tests.plans.convergence import STARTS
from tests.plans.execution import denoiser, sample
from tests.plans.gaussian import COSINE, denoising, uniform_lambda
from tests.plans.mixture import WIDE, rms

network = denoiser(WIDE.exact_x0, "v", COSINE)


def trajectory(times, starts, **parameters):
    """x at every time but the last, then the sample."""
    plan = trace_plan("test", partial(dc_solver, **parameters), times, denoising(COSINE, "v"))
    states = list(execute(plan, network, lambda k: starts, np.float64))
    return [*(state.u for state in states), finish(plan, states, np.float64)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ratios_of_one_are_unipc(order):
    times = trailing(NoiseSchedule(COSINE), 8)
    unipc = trace_plan("test", getattr(solvers, f"unipc_{order}"), times, denoising(COSINE, "v"))
    expected = sample(unipc, network, lambda k: STARTS, np.float64)
    for ratios in ((), (1.0,) * 8):
        assert trajectory(times, STARTS, ratios=ratios, order=order)[-1] == pytest.approx(expected, abs=1e-12)


def test_a_prediction_that_is_quadratic_in_time_is_compensated_exactly():
    """x0 = t^2 for a network that sees the time alone: at rho the step starts from (t')^2."""
    times = uniform_lambda(COSINE, 4)
    plans = {}
    for rho in (1.0, 1.3):
        plan = trace_plan(
            "test", partial(dc_solver, ratios=(1.0, 1.0, rho, 1.0), order=1), times, denoising(COSINE, "sample")
        )
        states = list(
            execute(
                plan, lambda i, step, u: [np.full_like(u, (step.time / 1000) ** 2)], lambda k: np.zeros(1), np.float64
            )
        )
        plans[rho] = [float(state.u[0]) for state in states]
    t0, t1 = times[2].network / 1000, times[1].network / 1000
    moved = (1.3 * t0 - 0.3 * t1) ** 2
    weight = times[3].alpha * -np.expm1(times[2].lam - times[3].lam)
    assert plans[1.3][3] - plans[1.0][3] == pytest.approx(weight * (moved - t0**2), rel=1e-9)
    assert plans[1.3][:3] == plans[1.0][:3]


def test_fitted_ratios_bring_it_nearer_to_the_trajectory():
    """Fitted on some starts, better on others."""
    times = uniform_lambda(COSINE, 6, first=995, last=10)
    fitted_on = np.random.default_rng(0).standard_normal(32)
    teacher = [WIDE.flow_map(times[0].sigma * fitted_on, times[0], time) for time in times]
    ratios = fit_ratios(lambda ratios: trajectory(times, fitted_on, ratios=ratios), teacher)
    assert ratios[:2] == (1.0, 1.0)
    assert all(0.5 <= rho <= 1.5 for rho in ratios)
    exact = WIDE.flow_map(times[0].sigma * STARTS, times[0], times[-1])
    plain, better = (rms(trajectory(times, STARTS, ratios=each)[-1] - exact) for each in ((), ratios))
    assert better < 0.7 * plain


def test_the_fit_is_the_minimum():
    times = uniform_lambda(COSINE, 3, first=995, last=10)
    teacher = [WIDE.flow_map(times[0].sigma * STARTS, times[0], time) for time in times]
    ratios = fit_ratios(lambda ratios: trajectory(times, STARTS, ratios=ratios), teacher)

    def loss(rho):
        return rms(trajectory(times, STARTS, ratios=(1.0, 1.0, rho))[-1] - teacher[-1])

    assert loss(ratios[2]) == pytest.approx(min(loss(rho) for rho in np.linspace(0.5, 1.5, 101)), rel=1e-3)
