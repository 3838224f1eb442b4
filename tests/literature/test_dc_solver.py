"""DC-Solver: UniPC without compensation, and nearer to the trajectory with fitted ratios."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.dc_solver import dc_solver
from fewstep.literature.fits.compensation import fit_ratios
from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.grids import trailing
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.sampling.execute import execute, finish
from tests.plans.convergence import STARTS
from tests.plans.execute_plan import denoiser, sample
from tests.plans.gaussian import COSINE, denoising, uniform_lambda
from tests.plans.mixture import WIDE, rms

network = denoiser(WIDE.exact_x0, "v", COSINE)


def trajectory(times, starts, network=network, prediction="v", **parameters):
    """Return x at every time but the last, then the sample."""
    plan = trace_plan("test", partial(dc_solver, **parameters), times, denoising(COSINE, prediction))
    states = list(execute(plan, network, lambda k: starts, np.float64))
    return [*(state.u for state in states), finish(plan, states, np.float64)]


@pytest.mark.parametrize("order", [1, 2, 3])
def test_ratios_of_one_are_unipc(order):
    times = trailing(NoiseSchedule(COSINE), 8)
    unipc = trace_plan("test", getattr(solvers, f"unipc_{order}"), times, denoising(COSINE, "v"))
    expected = sample(unipc, network, lambda k: STARTS, np.float64)
    given = {} if order == 2 else {"order": order}
    for ratios in ((), (1.0,) * 8):
        assert trajectory(times, STARTS, ratios=ratios, **given)[-1] == pytest.approx(expected, abs=1e-12)


def compensate(*ratios):
    """Return x before each step and the sample, with x0 = t^2 from a network of the time only."""
    squares = lambda i, step, u: [np.full_like(u, (step.time / 1000) ** 2)]  # noqa: E731
    return np.ravel(trajectory(uniform_lambda(COSINE, 4), np.zeros(1), squares, "sample", ratios=ratios, order=1))


def gain_of_step(index):
    """Return the number t of a time, and the contribution of x0 to a step from it."""
    here, there = uniform_lambda(COSINE, 4)[index : index + 2]
    return here.network / 1000, there.alpha * -np.expm1(here.lam - there.lam)


def test_a_prediction_that_is_quadratic_in_time_is_compensated_exactly():
    """At rho the step starts from (t')^2."""
    plain, moved = compensate(1.0, 1.0, 1.0, 1.0), compensate(1.0, 1.0, 1.3, 1.0)
    (t0, weight), (t1, _) = gain_of_step(2), gain_of_step(1)
    assert moved[3] - plain[3] == pytest.approx(weight * ((1.3 * t0 - 0.3 * t1) ** 2 - t0**2), rel=1e-9)
    assert [*moved[:3]] == [*plain[:3]]


def test_a_compensated_prediction_is_that_of_all_later_history():
    plain, moved = compensate(1.0, 1.0, 1.3, 1.0), compensate(1.0, 1.0, 1.3, 1.3)
    (t1, _), (t2, _), (t3, weight) = map(gain_of_step, (1, 2, 3))
    curve = np.polyfit([t1, t2, t3], [t1**2, (1.3 * t2 - 0.3 * t1) ** 2, t3**2], 2)
    assert moved[4] - plain[4] == pytest.approx(weight * (np.polyval(curve, 1.3 * t3 - 0.3 * t2) - t3**2), rel=1e-8)


def test_fitted_ratios_bring_it_nearer_to_the_trajectory():
    """Fitted on some starts, and better on others."""
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
    """Over the step that each ratio affects, one after the other."""
    times = uniform_lambda(COSINE, 4, first=900, last=50)
    teacher = [WIDE.flow_map(times[0].sigma * STARTS, times[0], time) for time in times]
    ratios = fit_ratios(lambda ratios: trajectory(times, STARTS, ratios=ratios), teacher)
    for i in (2, 3):
        tried = [(*ratios[:i], rho, 1.0)[:4] for rho in (ratios[i], *np.linspace(0.5, 1.5, 101))]
        losses = [rms(trajectory(times, STARTS, ratios=each)[i + 1] - teacher[i + 1]) for each in tried]
        assert losses[0] == pytest.approx(min(losses), rel=1e-3)


@pytest.mark.parametrize(("rho", "bound"), [(0.3, 0.5), (1.7, 1.5)])
def test_a_fitted_ratio_stays_within_the_bounds_of_the_authors(rho, bound):
    """The teacher has a ratio beyond them."""
    fitted = fit_ratios(lambda ratios: compensate(*ratios), compensate(1.0, 1.0, rho, 1.0))
    assert fitted[:3] == (1.0, 1.0, bound)
