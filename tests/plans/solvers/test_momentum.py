"""Heavy ball, and its generalized form (Wizadwongsa et al. 2023)."""

from functools import partial

import numpy as np
import pytest

from fewstep.literature.momentum import hb
from fewstep.plans.compile import trace_plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.solvers.momentum import ghvb
from tests.plans.execution import sample
from tests.plans.gaussian import LINEAR, denoising

TIMES = [NoiseSchedule(LINEAR).time(t) for t in (900.0, 700.0, 520.0, 400.0, 110.0, 30.0)]


@pytest.mark.parametrize("beta", [0.3, 0.8])
@pytest.mark.parametrize("solver", [partial(ghvb, order=1), ghvb, partial(ghvb, order=3), partial(ghvb, order=4), hb])
def test_constant_noise_is_followed_exactly(solver, beta):
    """Weights sum to 1, so that y moves along eps as the ODE has it."""
    plan = trace_plan("test", partial(solver, beta=beta), TIMES, denoising(LINEAR, "epsilon"))
    made = sample(plan, lambda index, step, u: [np.full_like(u, 0.3)], lambda k: np.array([1.1]), np.float64)
    first, last = TIMES[0], TIMES[-1]
    exact = last.alpha / first.alpha * first.sigma * 1.1 + (last.sigma - last.alpha * first.sigma / first.alpha) * 0.3
    assert made == pytest.approx([exact], abs=1e-12)


@pytest.mark.parametrize("beta", [0.3, 0.8])
@pytest.mark.parametrize("solver", [ghvb, hb])
def test_momentum_is_the_published_recurrence(solver, beta):
    """Of order 2 by hand, in y = x / alpha over rho: GHVB combines velocities by (2 +- beta) / (2 beta), and the heavy
    ball gives momentum to what Adams-Bashforth combines."""
    rng = np.random.default_rng(0)
    plan = trace_plan("test", partial(solver, beta=beta), TIMES, denoising(LINEAR, "epsilon"))
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
