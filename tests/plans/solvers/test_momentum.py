"""Heavy ball, and its generalized form (Wizadwongsa et al. 2023)."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.momentum import hb
from fewstep.plans.compile import trace_plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.momentum import ghvb
from tests.plans.execute_plan import recorded, sample
from tests.plans.gaussian import LINEAR, denoising

TIMES = [NoiseSchedule(LINEAR).time(t) for t in (900.0, 700.0, 520.0, 400.0, 110.0, 30.0)]


@pytest.mark.parametrize("beta", [0.6, 0.8])
@pytest.mark.parametrize(("solver", "degree"), [*((partial(ghvb, order=n), n - 1) for n in (1, 2, 3, 4)), (hb, 0)])
def test_even_steps_follow_a_polynomial_of_rho_as_adams_bashforth_does(solver, degree, beta):
    """The momentum has forgotten its first step at the last one. Constant noise is followed exactly from the first."""
    times = [NoiseSchedule(LINEAR).time_at_rho(rho) for rho in np.linspace(4.0, 0.1, 40)]
    plan = trace_plan("test", partial(solver, beta=beta), times, denoising(LINEAR, "epsilon"))
    alphas, rhos = (np.array(each) for each in zip(*((time.alpha, time.sigma / time.alpha) for time in times)))
    for power in range(degree + 2):
        made, seen = recorded(plan, [[np.array([rho**power])] for rho in rhos[:-1]], [np.array([1.1])])
        gained = np.diff(np.array([*(u[0] for u in seen), made[0]]) / alphas)
        off = np.abs(gained / np.diff(rhos ** (power + 1) / (power + 1)) - 1)
        assert off[-1 if power else 0 :].max() < 1e-9 if power <= degree else off[-1] > 1e-3


@pytest.mark.parametrize(("given", "beta"), [({"beta": 0.3}, 0.3), ({}, 0.8)])
@pytest.mark.parametrize("solver", [ghvb, hb])
def test_momentum_is_the_published_recurrence(solver, given, beta):
    """Of order 2 by hand, in y = x / alpha over rho: GHVB combines velocities by (2 +- beta) / (2 beta), and the heavy
    ball gives momentum to what Adams-Bashforth combines."""
    rng = np.random.default_rng(0)
    plan = trace_plan("test", partial(solver, **given), TIMES, denoising(LINEAR, "epsilon"))
    noises, rhos = rng.standard_normal((5, 3)), [time.sigma / time.alpha for time in TIMES]
    made = sample(plan, lambda index, step, u: [noises[index]], lambda k: np.array([1.1] * 3), np.float64)
    y, v = np.full(3, 1.1) * TIMES[0].sigma / TIMES[0].alpha, noises[0]
    y = y + (rhos[1] - rhos[0]) * v
    for index in range(1, 5):
        before = v
        if solver is hb:
            v = (1 - beta) * v + beta * (1.5 * noises[index] - 0.5 * noises[index - 1])
            slope = v
        else:
            v = (1 - beta) * v + beta * noises[index]
            slope = ((2 + beta) * v - (2 - beta) * before) / (2 * beta)
        y = y + (rhos[index + 1] - rhos[index]) * slope
    assert made == pytest.approx(y * TIMES[-1].alpha, abs=1e-12)
