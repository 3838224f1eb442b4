"""The heavy ball method, and its generalized form (Wizadwongsa et al. 2023)."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.momentum import hb, hb_dpmpp_2m, hb_unipc, nesterov
from fewstep.plans.compile import compile_plan, trace_plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.momentum import ghvb
from tests.plans.execute_plan import record_inputs, sample
from tests.plans.gaussian import LINEAR, denoising

TIMES = [NoiseSchedule(LINEAR).time(t) for t in (900.0, 700.0, 520.0, 400.0, 110.0, 30.0)]


@pytest.mark.parametrize("beta", [0.6, 0.8])
@pytest.mark.parametrize(
    ("solver", "degree"), [*((partial(ghvb, order=n), n - 1) for n in (1, 2, 3, 4)), (hb, 0), (nesterov, 0)]
)
def test_even_steps_follow_a_polynomial_of_rho_as_adams_bashforth_does(solver, degree, beta):
    """At the last step the momentum has forgotten its first step. Constant noise is followed exactly from the start."""
    times = [NoiseSchedule(LINEAR).time_at_rho(rho) for rho in np.linspace(4.0, 0.1, 40)]
    plan = trace_plan("test", partial(solver, beta=beta), times, denoising(LINEAR, "epsilon"))
    alphas, rhos = (np.array(each) for each in zip(*((time.alpha, time.sigma / time.alpha) for time in times)))
    for power in range(degree + 2):
        made, seen = record_inputs(plan, [[np.array([rho**power])] for rho in rhos[:-1]], [np.array([1.1])])
        gained = np.diff(np.array([*(u[0] for u in seen), made[0]]) / alphas)
        off = np.abs(gained / np.diff(rhos ** (power + 1) / (power + 1)) - 1)
        assert off[-1 if power else 0 :].max() < 1e-9 if power <= degree else off[-1] > 1e-3


@pytest.mark.parametrize(("given", "beta"), [({"beta": 0.3}, 0.3), ({}, 0.8)])
@pytest.mark.parametrize("solver", [ghvb, hb, nesterov])
def test_momentum_is_the_published_recurrence(solver, given, beta):
    """Order 2 by hand, in y = x / alpha over rho: GHVB combines velocities by (2 +- beta) / (2 beta), and the heavy
    ball applies momentum to the Adams-Bashforth combination. Nesterov's method averages once more.
    """
    rng = np.random.default_rng(0)
    plan = trace_plan("test", partial(solver, **given), TIMES, denoising(LINEAR, "epsilon"))
    noises, rhos = rng.standard_normal((5, 3)), [time.sigma / time.alpha for time in TIMES]
    made = sample(plan, lambda index, step, u: [noises[index]], lambda k: np.array([1.1] * 3), np.float64)
    y, v = np.full(3, 1.1) * TIMES[0].sigma / TIMES[0].alpha, noises[0]
    y = y + (rhos[1] - rhos[0]) * v
    for index in range(1, 5):
        before = v
        if solver in (hb, nesterov):
            pushed = 1.5 * noises[index] - 0.5 * noises[index - 1]
            v = (1 - beta) * v + beta * pushed
            slope = v if solver is hb else (1 - beta) * v + beta * pushed
        else:
            v = (1 - beta) * v + beta * noises[index]
            slope = ((2 + beta) * v - (2 - beta) * before) / (2 * beta)
        y = y + (rhos[index + 1] - rhos[index]) * slope
    assert made == pytest.approx(y * TIMES[-1].alpha, abs=1e-12)


@pytest.mark.parametrize(("given", "beta"), [({"beta": 0.3}, 0.3), ({}, 0.8)])
def test_heavy_ball_averages_the_predictions_of_dpm_solver_pp(given, beta):
    """The recurrence of the authors' code by hand. The velocity begins in the second step. The last step of these
    times, of order 2, has it too.
    """
    rng = np.random.default_rng(0)
    plan = trace_plan("test", partial(hb_dpmpp_2m, **given), TIMES, denoising(LINEAR, "sample"))
    x0s = rng.standard_normal((5, 3))
    made = sample(plan, lambda index, step, u: [x0s[index]], lambda k: np.array([1.1] * 3), np.float64)
    x, v = np.full(3, 1.1) * TIMES[0].sigma, None
    for index, (s, t) in enumerate(zip(TIMES, TIMES[1:])):
        h, pushed = t.lam - s.lam, x0s[index]
        if index:
            d0, d1 = x0s[index], (x0s[index] - x0s[index - 1]) * h / (s.lam - TIMES[index - 1].lam)
            v = pushed = d0 + d1 / 2 if v is None else (1 - beta) * v + beta * (d0 + d1 / 2)
        x = t.sigma / s.sigma * x - t.alpha * (np.exp(-h) - 1) * pushed
    assert made == pytest.approx(x, abs=1e-12)


@pytest.mark.parametrize(("given", "beta"), [({"beta": 0.3}, 0.3), ({}, 0.8)])
def test_heavy_ball_averages_the_corrections_of_unipc(given, beta):
    """The recurrence of the authors' code by hand, with B2(h) and order 2: momentum only in the corrector, on the
    term that is divided by sigma_t. Steps of order 1 have weight 1/2; r is the place of the previous evaluation, in
    steps.
    """
    rng = np.random.default_rng(0)
    plan = trace_plan("test", partial(hb_unipc, **given), TIMES, denoising(LINEAR, "sample"))
    ms = rng.standard_normal((5, 3))
    made, seen = record_inputs(plan, [[m] for m in ms], [np.full(3, 1.1)])
    x, v = np.full(3, 1.1) * TIMES[0].sigma, None
    for index, (s, t) in enumerate(zip(TIMES, TIMES[1:])):
        h, m = t.lam - s.lam, ms[index]
        phi_1, r = np.expm1(-h), (TIMES[index - 1].lam - s.lam) / h
        slope = (ms[index - 1] - m) / r
        predicted = t.sigma / s.sigma * x - t.alpha * phi_1 * (m + (slope / 2 if index else 0))
        if index == 4:
            break
        b = [phi_1 / -h - 1, ((phi_1 / -h - 1) / -h - 1 / 2) * 2]
        rho, rho_t = np.linalg.solve([[1, 1], [r, 1]], np.array(b) / phi_1) if index else (0, 1 / 2)
        pushed = (m + rho * (slope if index else 0) + rho_t * (ms[index + 1] - m)) / t.sigma
        v = pushed if v is None else (1 - beta) * v + beta * pushed
        x = t.sigma * (x / s.sigma - t.alpha * phi_1 * v)
        assert seen[index + 1] == pytest.approx(predicted, abs=1e-12)
    assert made == pytest.approx(predicted, abs=1e-12)


@pytest.mark.parametrize("names", [("hb_dpmpp_2m(beta=1)", "dpmpp_2m"), ("hb_unipc(beta=1)", "unipc_2")])
def test_heavy_ball_of_weight_one_is_the_solver_itself(names):
    plans = [compile_plan(f"{name}:6", denoising(LINEAR, "epsilon")) for name in names]
    outputs, start = np.random.default_rng(1).standard_normal((6, 4)), np.ones(4)
    made, expected = (
        sample(plan, lambda index, step, u: [outputs[index]], lambda k: start, np.float64) for plan in plans
    )
    assert made == pytest.approx(expected, abs=1e-12)
