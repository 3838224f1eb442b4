"""Measurements for tests of solver families: the slope of the error, and the exact distribution of a stochastic
plan.
"""

import math
from functools import cache

import numpy as np
import pytest

from fewstep.plans.names.plan_name import Solver
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import Prediction, ScheduleSpec
from tests.plans.execute_plan import denoiser, sample
from tests.plans.gaussian import MEAN, STD, exact_x0, uniform_lambda
from tests.plans.mixture import WIDE, compile_solver, rms

STARTS = np.linspace(-2, 2, 9)
FEW_AND_MANY = (66, 258)  # steps
grid = cache(uniform_lambda)


@cache
def exact_ends(spec: ScheduleSpec) -> np.ndarray:
    """Return the ends of the trajectories from `STARTS`, whatever steps `grid` has between them."""
    times = grid(spec, 1, 995, 10)
    return WIDE.flow_map(times[0].sigma * STARTS, times[0], times[-1])


def error(solver: Solver, spec: ScheduleSpec, prediction: Prediction, steps: int, bend: float = 0.0) -> float:
    """Return the RMS distance to the ends of the exact trajectories, on the mixture. Steps are uniform in lambda, or
    with a bend grow or shrink from start to end.
    """
    times = bend_grid(spec, steps, bend)
    return rms(WIDE.run(compile_solver(solver, times, spec, prediction), spec, STARTS) - exact_ends(spec))


@cache
def bend_grid(spec: ScheduleSpec, steps: int, bend: float) -> list[Time]:
    """Return steps that grow or shrink in lambda, between the ends of `grid`; without a bend, those of `grid`."""
    times = grid(spec, steps, 995, 10)
    if not bend:
        return times
    schedule, u = NoiseSchedule(spec), np.linspace(0, 1, steps + 1)
    lams = times[0].lam + (u + bend * u * (1 - u)) * (times[-1].lam - times[0].lam)
    return [schedule.time_at_lam(float(lam)) for lam in lams]


def slope(solver: Solver, spec: ScheduleSpec, prediction: Prediction, bend: float = 0.0) -> float:
    """Return the power of the number of steps with which the error falls, from 66 to 258 steps, where blocks of two
    and of three evaluations fit.
    """
    few, many = (error(solver, spec, prediction, steps, bend) for steps in FEW_AND_MANY)
    return math.log(few / many) / math.log(FEW_AND_MANY[1] / FEW_AND_MANY[0])


def moments(plan: Plan, network, given=None) -> tuple[float, float]:
    """Return mean and standard deviation of a plan's sample under an affine network, from its response to no noise
    and to each draw alone (a batch): exact, without Monte Carlo. `given`: numbers by name.
    """
    draws = 1 + max(max(step.draws, default=0) for step in plan.steps)
    draws = max(draws, 1 + max(plan.start_draws, default=0))
    alone = np.eye(draws + 1)[:, 1:]  # the first of the batch has no noise, number k has draw k - 1
    fields = {name: np.full(draws + 1, float(value)) for name, value in (given or {}).items()}
    mean, *responses = sample(plan, network, lambda number: alone[:, number], np.float64, fields)
    return float(mean), math.sqrt(sum((response - mean) ** 2 for response in responses))


def spread_error(plan: Plan, spec: ScheduleSpec, last: Time) -> float:
    """Return the error of a sample's standard deviation at the `last` time, on Gaussian data, after checking its
    mean.
    """
    mean, std = moments(plan, denoiser(exact_x0, plan.prediction, spec))
    assert mean == pytest.approx(last.alpha * MEAN, rel=2e-2)  # the start is not quite noise
    return abs(std - math.hypot(last.alpha * STD, last.sigma))
