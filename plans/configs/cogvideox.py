"""The schedulers of CogVideoX: DDIM and the SDE of DPM-Solver++(2M), on a table with less signal at each timestep."""

from collections.abc import Sequence
from math import exp, expm1, sqrt

import numpy as np

from fewstep.plans import paths
from fewstep.plans.configs import tables
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.diffusion import ddim_to_targets, stride_times
from fewstep.plans.configs.recipe import ScheduleRequest, SchedulerRecipe
from fewstep.plans.schedule import Time
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Solver, Tracer


def ddim(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of CogVideoXDDIMScheduler, which does not clip and ignores eta."""
    points, targets = _strides(config, request, spec)
    return SchedulerRecipe([*points, targets[-1]], ddim_to_targets(targets, 0.0), start=1.0)


def dpm(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of CogVideoXDPMScheduler, called with the previous prediction and timestep, as its pipelines
    call it."""
    points, targets = _strides(config, request, spec)
    stride = config["num_train_timesteps"] // request.steps
    return SchedulerRecipe([*points, targets[-1]], _sde(targets, stride), start=1.0)


def _strides(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> tuple[list[Time], list[Time]]:
    bars: tables.Array = 1 / (1 + np.exp(-2 * paths.table(spec)))
    return stride_times(config, request, bars)


def _sde(targets: Sequence[Time], stride: int) -> Solver:
    """Return SDE-DPM-Solver++(2M) from each time to its target. Its order is 1 in the first step, and in steps from
    timesteps below `stride`."""

    def solver(trace: Tracer, times: Sequence[Time]) -> Lin:
        x, before = trace.start(), None
        for s, t in zip(times, targets):
            x, x0 = trace.denoise(x, s)
            h, guess = t.lam - s.lam, x0
            if before is not None and s.network >= stride:
                last, old = before
                guess = x0 + 0.5 * h / (s.lam - last.lam) * (x0 - old)
            x = t.sigma / s.sigma * exp(-h) * x - t.alpha * expm1(-2 * h) * guess
            if t.sigma and h > 1e-9:
                x = x + t.sigma * sqrt(-expm1(-2 * h)) * trace.noise()
            before = s, x0
        return x

    return solver
