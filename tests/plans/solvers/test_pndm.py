"""S-PNDM (Liu et al. 2022, arXiv 2202.09778) by hand."""

import numpy as np

from fewstep.plans import solvers
from fewstep.plans.compile import trace_plan
from fewstep.plans.schedule import NoiseSchedule
from tests.plans.execution import sample
from tests.plans.gaussian import LINEAR, denoising


def test_s_pndm_is_the_published_recurrence():
    """A pseudo improved Euler step evaluates both its ends. Each later one takes 3/2 of its noise and -1/2 of the one
    before, which is the first's at its begin. DDIM moves x by it."""
    schedule, rng = NoiseSchedule(LINEAR), np.random.default_rng(0)
    times = [schedule.time(t) for t in (900.0, 700.0, 520.0, 400.0, 110.0)]
    plan = trace_plan("test", solvers.s_pndm, times, denoising(LINEAR, "epsilon"))
    seen, noises = [], rng.standard_normal((5, 3))

    def network(index, step, u):
        seen.append((step.time, u))
        return [noises[index] * u]

    def moved(x, e, s, t):
        return t.alpha / s.alpha * x + (t.sigma - t.alpha * s.sigma / s.alpha) * e

    made = sample(plan, network, lambda k: np.full(3, 1.1), np.float64)
    assert [time for time, _ in seen] == [900.0, 700.0, 700.0, 520.0, 400.0]
    x = times[0].sigma * np.full(3, 1.1)
    before = noises[0] * x
    end = moved(x, before, *times[:2])
    x = moved(x, (before + noises[1] * end) / 2, *times[:2])
    for e, u, s, t in zip(noises[2:], [u for _, u in seen[2:]], times[1:], times[2:], strict=False):
        np.testing.assert_allclose(u, x, atol=1e-12)
        x, before = moved(x, 1.5 * e * x - 0.5 * before, s, t), e * x
    np.testing.assert_allclose(made, x, atol=1e-12)
