"""What tests of solver families measure: the slope of the error, and a stochastic plan's exact law."""

import math
from functools import cache

import numpy as np

from fewstep.plans.name import Solver
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule
from fewstep.plans.spec import Prediction, ScheduleSpec
from tests.plans.execution import sample
from tests.plans.gaussian import exact_output, uniform_lambda
from tests.plans.mixture import WIDE, compiled, rms

STARTS = np.linspace(-2, 2, 9)
grid = cache(uniform_lambda)


@cache
def exact_ends(spec: ScheduleSpec) -> np.ndarray:
    times = grid(spec, 64, 995, 10)
    return WIDE.flow_map(times[0].sigma * STARTS, times[0], times[-1])


def error(solver: Solver, spec: ScheduleSpec, prediction: Prediction, steps: int) -> float:
    """Root mean square distance to the exact trajectories' ends, on the mixture, steps uniform in lambda."""
    plan = compiled(solver, grid(spec, steps, 995, 10), spec, prediction)
    return rms(WIDE.run(plan, spec, STARTS) - exact_ends(spec))


def slope(solver: Solver, spec: ScheduleSpec, prediction: Prediction) -> float:
    """The power of the number of steps that the error falls with, from 64 to 256 steps."""
    few, many = (error(solver, spec, prediction, steps) for steps in (64, 256))
    return math.log2(few / many) / 2


def moments(plan: Plan, network, given=None) -> tuple[float, float]:
    """Mean and standard deviation of a plan's sample under an affine network, from its response to no noise and to each
    draw alone (a batch): exact, no Monte Carlo. `given`: numbers by name."""
    draws = 1 + max(max(step.draws, default=0) for step in plan.steps)
    draws = max(draws, 1 + max(plan.start_draws, default=0))
    alone = np.eye(draws + 1)[:, 1:]  # the first of the batch has no noise, number k has draw k - 1
    fields = {name: np.full(draws + 1, float(value)) for name, value in (given or {}).items()}
    mean, *responses = sample(plan, network, lambda number: alone[:, number], np.float64, fields)
    return float(mean), math.sqrt(sum((response - mean) ** 2 for response in responses))


def gaussian_network(plan: Plan, spec: ScheduleSpec):
    """The exact denoiser of Gaussian data."""
    schedule = NoiseSchedule(spec)
    return lambda index, step, u: [exact_output(plan.prediction, u, schedule.time(step.time)) for _ in step.branches]
