"""Run inversions along the exact denoiser of a mixture, for tests of exact inverses."""

import numpy as np

from fewstep.plans.compile import trace_plan
from fewstep.runtime.sampling.execute import execute, finish
from tests.plans.execute_plan import denoiser
from tests.plans.gaussian import denoising
from tests.plans.mixture import WIDE

NOISE = np.random.default_rng(3).standard_normal((2, 3, 4))


def run(solver, times, spec, prediction, given=None):
    """Return the sample, and the last input of the network."""
    plan = trace_plan("test", solver, times, denoising(spec, prediction))
    states = list(execute(plan, denoiser(WIDE.exact_x0, prediction, spec), lambda k: NOISE, np.float64, given))
    return finish(plan, states, np.float64), states[-1].u
