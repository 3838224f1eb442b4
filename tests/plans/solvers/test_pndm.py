"""PNDM's starts by hand, on a network that depends on x: Liu et al. 2022, in the variables of the authors' code."""

import math
from itertools import pairwise

import numpy as np
import pytest

from fewstep.plans.compile import trace_plan
from fewstep.plans.schedule import CLEAN, NoiseSchedule
from tests.plans.execute_plan import sample, solver
from tests.plans.gaussian import LINEAR, denoising

TIMESTEPS = (900, 700, 520, 400, 110, 30)
KEPT = [*np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[[*TIMESTEPS]], 1.0]  # alpha squared
ADAMS = ([1.0], [1.5, -0.5], [23 / 12, -16 / 12, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -9 / 24])


def transfer(x, noise, a, b):
    """Equation 11, with alpha squared from a to b."""
    of_noise = math.sqrt(a) * (math.sqrt((1 - b) * a) + math.sqrt((1 - a) * b))
    return x + (b - a) * (x / (math.sqrt(a) * (math.sqrt(a) + math.sqrt(b))) - noise / of_noise)


@pytest.mark.parametrize(("name", "order"), [("s_pndm", 2), ("pndm", 4), ("ipndm", 4), ("hb(beta=1, order=4)", 4)])
def test_s_pndm_is_the_published_recurrence(name, order):
    """S-PNDM and PLMS redo the first step with the mean of the noises at its two ends. iPNDM, a heavy ball with full
    momentum, does not.
    """
    times = [*(NoiseSchedule(LINEAR).time(t) for t in TIMESTEPS), CLEAN]
    plan = trace_plan("test", solver(name), times, denoising(LINEAR, "epsilon"))
    said, start, noises = lambda x, t: np.sin(3 * x + t / 300), np.linspace(-2, 2, 5), []
    x = math.sqrt(1 - KEPT[0]) * start
    for i, (a, b) in enumerate(pairwise(KEPT)):
        noises.append(said(x, TIMESTEPS[i]))
        weights = ADAMS[min(i + 1, order) - 1]
        noise = sum(weight * each for weight, each in zip(weights, reversed(noises)))
        if i == 0 and name in ("s_pndm", "pndm"):
            noise = (noise + said(transfer(x, noise, a, b), TIMESTEPS[1])) / 2
        x = transfer(x, noise, a, b)
    made = sample(plan, lambda index, step, u: [said(u, step.time)], lambda k: start, np.float64)
    assert made == pytest.approx(x, abs=1e-9)
