"""CogVideoX's schedulers: DDIM and the SDE of DPM-Solver++(2M), over a table with less signal at each timestep."""

from collections.abc import Sequence
from math import exp, expm1, sqrt

import numpy as np
from msgspec.structs import replace

from fewstep.plans import paths
from fewstep.plans.configs import discrete, tables
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.diffusion import DDIM, strides, unchained
from fewstep.plans.configs.recipe import ScheduleRequest, SchedulerRecipe, check_arguments, checked
from fewstep.plans.schedule import Time
from fewstep.plans.spec import Prediction, ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Solver, Tracer

COGVIDEOX = {
    **{name: DDIM[name] for name in DDIM if name not in ("thresholding", "dynamic_thresholding_ratio")},
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "snr_shift_scale": 3.0,
}


def schedule(config: SchedulerConfig) -> tuple[ScheduleSpec, Prediction]:
    """The table of betas that has the signal to noise ratio over `snr_shift_scale`, as one of trained betas."""
    spec, prediction = discrete.schedule(config)
    scale = config["snr_shift_scale"]
    if not 1e-3 <= scale <= 1e3:
        raise config.refuse("snr_shift_scale", "the signal to noise ratio is divided by it", "give 0.001 .. 1000")
    if spec.kind == "scaled-linear":  # which the class has in float64
        bars = np.cumprod(1 - paths.betas(spec))
    else:
        bars = tables.alpha_bars(replace(spec, zero_terminal_snr=False))
    bars = np.append(1.0, bars / (scale + (1 - scale) * bars))
    betas = tuple((1 - bars[1:] / bars[:-1]).tolist())
    return checked(ScheduleSpec("betas", len(betas), betas=betas, zero_terminal_snr=spec.zero_terminal_snr)), prediction


def ddim(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """CogVideoXDDIMScheduler, which clips nothing and heeds no eta."""
    points, targets = _strides(config, request)
    return _recipe(config, [*points, targets[-1]], unchained(targets, 0.0))


def dpm(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """CogVideoXDPMScheduler with the prediction and the timestep before, as its pipelines give them."""
    points, targets = _strides(config, request)
    stride = config["num_train_timesteps"] // request.steps
    return _recipe(config, [*points, targets[-1]], _sde(targets, stride))


def _strides(config: SchedulerConfig, request: ScheduleRequest) -> tuple[list[Time], list[Time]]:
    check_arguments(config, request)
    lam = paths.table(schedule(config)[0])
    bars: tables.Array = 1 / (1 + np.exp(-2 * lam))
    return strides(config, request, bars)


def _recipe(config: SchedulerConfig, times: Sequence[Time], solver: Solver) -> SchedulerRecipe:
    return SchedulerRecipe(*schedule(config), times, solver, start=1.0)


def _sde(targets: Sequence[Time], stride: int) -> Solver:
    """SDE-DPM-Solver++(2M) from each time to its target; of first order at the first, and below `stride`."""

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
