"""Runs of inversions along the exact denoiser of a mixture: what tests of exact inverses share."""

import numpy as np

from fewstep.plans.compile import trace_plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.runtime.execute import execute, finish
from tests.plans.gaussian import denoising
from tests.plans.mixture import WIDE

NOISE = np.random.default_rng(3).standard_normal((2, 3, 4))


def network(spec, prediction):
    """The exact denoiser of the mixture: as far from linear as a trained one."""
    schedule = NoiseSchedule(spec)

    def run(index, step, u):
        time = schedule.time(step.time)
        x0 = WIDE.exact_x0(u, time)
        eps = (u - time.alpha * x0) / time.sigma
        return [{"epsilon": eps, "v": time.alpha * eps - time.sigma * x0, "flow": eps - x0}[prediction]]

    return run


def run(solver, times, spec, prediction, given=None):
    """The sample, and what was denoised last."""
    plan = trace_plan("test", solver, times, denoising(spec, prediction))
    states = list(execute(plan, network(spec, prediction), lambda k: NOISE, np.float64, given))
    return finish(plan, states, np.float64), states[-1].u
