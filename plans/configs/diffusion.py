"""Schedulers in terms of alpha_bar: DDPM, DDIM, PNDM, iPNDM, and those of distilled models, LCM and TCD.

They start at standard deviation 1. In diffusers, DDIM and PNDM step from t to t - T // N, which is the next timestep
only with the spacing `leading`. For other spacings the next evaluation assumes more or less noise than x has.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from math import expm1, pi, sin, sqrt
from typing import Any

import numpy as np

from fewstep.plans.configs import tables
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.discrete import space_timesteps
from fewstep.plans.configs.recipe import (
    ScheduleRequest,
    SchedulerRecipe,
    append_end,
    bind_solver,
    invert_solver,
    shaping_of,
    variance_preserving_time,
)
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import CLEAN, NoiseSchedule, Time
from fewstep.plans.solvers.ddim import posterior_mean
from fewstep.plans.solvers.exponential import noise_prediction, transfer
from fewstep.plans.solvers.momentum import combine_velocities
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.strength import least_strength
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Solver, Tracer

LEAST_VARIANCE = 1e-20  # by which DDPMScheduler bounds the smaller variance, which is 0 in the last step


def ddim(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe that reproduces a config of DDIMScheduler. `eta` is an argument of its step. If x0 is clipped,
    the noise that is added back is still the network's own, not the noise that the clipped x0 implies."""
    eta = request.argument("eta", 0.0)
    check_share("eta", eta)
    points, targets = stride_times(config, request, tables.alpha_bars(spec))
    return _recipe(config, [*points, targets[-1]], ddim_to_targets(targets, eta))


def ddim_inverse(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe that reproduces a config of DDIMInverseScheduler, which goes from the given sample "x" to
    noise. At each step, the network receives x at one time together with the next time."""
    if config["prediction_type"] == "sample":
        raise config.field_error(
            "prediction_type", "a clean x and its prediction do not determine the noise", "set epsilon"
        )
    noisier, cleaner = stride_times(config, request, tables.alpha_bars(spec))
    almost_clean = variance_preserving_time(0.0, 1e-8)  # a clean x gets some noise, so that the noise follows from x0
    pairs = [(t, s if s.sigma else almost_clean) for t, s in zip(noisier, cleaner)]
    times = [noisier[0], *(Time(t.network, s.alpha, s.sigma) for t, s in pairs)]
    solver = invert_solver(ddim_to_targets(noisier[::-1], 0.0))
    return SchedulerRecipe(times, solver, shaping=shaping_of(config))


def stride_times(
    config: SchedulerConfig, request: ScheduleRequest, bars: tables.Array
) -> tuple[list[Time], list[Time]]:
    """Return the times of a grid, and for each of them the time T // N timesteps below it, which may differ from the
    next time of the grid. T is the number of training timesteps and N that of steps."""
    timesteps = space_timesteps(config, request.steps, whole=True)
    points = _points(config, bars, timesteps)
    end = CLEAN if config["set_alpha_to_one"] else _points(config, bars, np.zeros(1))[0]
    stride = config["num_train_timesteps"] // request.steps
    reached = _points(config, bars, np.maximum(timesteps - stride, 0.0))
    reached = [t if s.network >= stride else end for s, t in zip(points, reached)]
    return points, [t if t.lam > s.lam else append_end([s, t])[-1] for s, t in zip(points, reached)]


def ddim_to_targets(targets: Sequence[Time], eta: float) -> Solver:
    """Return DDIM with steps from each time to its target, which may differ from the next time. If x0 is clipped it
    uses the network's noise. `targets` has one target for each time of the whole grid."""

    def solver(trace: Tracer, times: Sequence[Time]) -> Lin:
        x = trace.start()
        for s, t in zip(times, targets[len(targets) + 1 - len(times) :]):  # image-to-image runs start later
            x, x0 = trace.denoise(x, s, keep_noise=True)
            # equation 12, with the variance of equation 16
            variance = (t.sigma / s.sigma) ** 2 * (1 - (s.alpha / t.alpha) ** 2)
            noise = eta * sqrt(max(variance, 0.0))
            x = t.alpha * x0 + sqrt(t.sigma**2 - noise**2) * noise_prediction(x, x0, s)
            if noise:
                x = x + noise * trace.noise()
        return x

    return solver


def ddpm(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of DDPMScheduler. With the large variance and with a learned one, diffusers adds noise in the
    last step too, unless that step starts at timestep 0."""
    variance = config["variance_type"]
    if variance in ("fixed_large_log", "learned"):
        is_log = variance == "fixed_large_log"
        root = "a logarithm" if is_log else "the network's output, which may be negative"
        raise config.field_error("variance_type", f"diffusers takes the square root of {root}", "set fixed_small")
    points = _points(
        config,
        tables.alpha_bars(spec),
        _choose_timesteps(request, lambda: space_timesteps(config, request.steps, whole=True)),
    )
    if variance == "learned_range":
        return replace(_recipe(config, [*points, CLEAN], _ddpm_with_learned_variance), heads=2)
    solver = bind_solver("ddpm", large_variance=(variance == "fixed_large") or None)
    if variance == "fixed_large" and points[-1].network > 0:
        solver = _add_final_noise(solver)
    return _recipe(config, [*points, CLEAN], solver)


def _ddpm_with_learned_variance(trace: Tracer, times: Sequence[Time]) -> Lin:
    """DDPM with a learned variance between the two fixed ones (Nichol & Dhariwal 2021, arXiv 2102.09672, section
    3.1)."""
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        x = posterior_mean(x, x0, s, t)
        if s.network > 0:
            share = -expm1(-2 * (t.lam - s.lam))
            x = x + trace.noise_of_learned_variance(max(t.sigma**2 * share, LEAST_VARIANCE), s.sigma**2 * share)
    return x


def _add_final_noise(solver: Solver) -> Solver:
    def noisy(trace: Tracer, times: Sequence[Time]) -> Lin:
        x = solver(trace, times)
        return x + times[-2].sigma * trace.noise()

    return noisy


def pndm(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of PNDMScheduler: PLMS with skip_prk_steps, otherwise with a Runge-Kutta start."""
    if config["timestep_spacing"] != "leading":
        why = "diffusers steps to timesteps at which it does not evaluate"
        raise config.field_error("timestep_spacing", why, "set leading, or use the plan pndm:N")
    stride = config["num_train_timesteps"] // request.steps
    if not config["skip_prk_steps"] and (request.steps < 4 or stride % 2):
        why = f"{request.steps} steps have no whole timesteps halfway, or are fewer than 4"
        raise config.field_error("skip_prk_steps", why, "set it, change the steps, or use the plan f_pndm:N")
    points = _points(config, tables.alpha_bars(spec), space_timesteps(config, request.steps, whole=True))
    end = CLEAN if config["set_alpha_to_one"] else _points(config, tables.alpha_bars(spec), np.zeros(1))[0]
    if points[-1].network >= stride:  # the last step goes down by the stride, here to a timestep of the table
        end = _points(config, tables.alpha_bars(spec), np.array([points[-1].network - stride]))[0]
    on_v = config["prediction_type"] == "v_prediction"  # diffusers combines v of different times
    solver = bind_solver("pndm" if config["skip_prk_steps"] else "f_pndm", on_v=on_v or None)
    if request.steps == 1:
        solver = bind_solver("ddim")  # one evaluation: a start with two evaluations needs a second timestep
    return _recipe(config, append_end([*points, end]), solver)


def lcm(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of LCMScheduler. It uses the timesteps of the distillation, whatever the spacing."""
    solver = bind_solver("lcm", timestep_scaling=float(config["timestep_scaling"]))
    points = _points(
        config, tables.alpha_bars(spec), _choose_timesteps(request, lambda: _distillation_timesteps(config, request))
    )
    return _recipe(config, [*points, CLEAN], solver)


def tcd(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe that reproduces a config of TCDScheduler. The argument `eta` of its step (0.3 by default) is
    the paper's gamma. It ends at timestep 0."""
    gamma = request.argument("eta", 0.3)
    points = _points(
        config,
        tables.alpha_bars(spec),
        np.append(_choose_timesteps(request, lambda: _distillation_timesteps(config, request)), 0.0),
    )
    return _recipe(config, points, bind_solver("tcd", gamma=float(gamma)))


def _choose_timesteps(request: ScheduleRequest, usual: Callable[[], Any]) -> Any:
    """Return the caller's timesteps, or else the usual ones."""
    if request.timesteps is None:
        return usual()
    if any(number % 1 for number in request.timesteps):
        raise UserError(f"timesteps {list(request.timesteps)[:8]} are not integers", "give integers for this class")
    return np.array(request.timesteps)


def _distillation_timesteps(config: SchedulerConfig, request: ScheduleRequest) -> Any:
    original, T = config["original_inference_steps"], config["num_train_timesteps"]
    left = int(original * request.strength)
    if not 1 <= request.steps <= left <= original <= T:
        why, fix = f"{request.steps} of them, of {T} timesteps", f"use 1 to {original} steps"
        if request.strength < 1 and request.steps <= original <= T:
            least = least_strength(request.steps, original)
            fix = f"give {least:g} or more, or at most {left} steps" if left else f"give {least:g} or more"
            why = f"strength {request.strength:g} leaves {left} of them"
        raise config.field_error("original_inference_steps", why, fix)
    trained = np.arange(left, 0, -1) * (T // original) - 1
    return trained[np.floor(np.linspace(0, left, request.steps, endpoint=False)).astype(int)].astype(np.float64)


def _points(config: SchedulerConfig, bars: tables.Array, timesteps: Any) -> list[Time]:
    if timesteps.min() < 0 or timesteps.max() >= len(bars):
        why = f"timesteps {timesteps.min():g} .. {timesteps.max():g} are beyond the table of {len(bars)}"
        raise config.field_error("steps_offset", why, "use fewer steps")
    return [Time(float(t), sqrt(bars[int(t)]), sqrt(1 - bars[int(t)])) for t in timesteps]


def _recipe(config: SchedulerConfig, times: Sequence[Time], solver: Solver) -> SchedulerRecipe:
    return SchedulerRecipe(times, solver, start=1.0, shaping=shaping_of(config))


def ipndm(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of IPNDMScheduler: v on a trigonometric schedule, with sigma = sin^2 of evenly spaced angles.
    In its first step, from pure noise, x0 is 0 in diffusers, so x is the noise."""
    if config["trained_betas"] is not None:
        raise config.field_error("trained_betas", "this class would need one for each step", "leave them out")
    sigmas = [sin(pi / 2 * (1 - i / request.steps)) ** 2 for i in range(request.steps)]
    path = NoiseSchedule(spec)
    times = [path.noisiest, *(path.time_at_rho(sigma / sqrt(1 - sigma**2)) for sigma in sigmas[1:]), CLEAN]
    return SchedulerRecipe(times, _ipndm, start=1.0)


def _ipndm(trace: Tracer, times: Sequence[Time]) -> Lin:
    """A variant of iPNDM. At pure noise it uses x itself as the predicted noise, and includes it in the
    combinations."""
    x = trace.start()
    history: list[Lin] = []
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        history = [trace.store(noise_prediction(x, x0, s)), *history[:3]]
        eps = combine_velocities(history)
        x = t.sigma * eps if s.alpha == 0 else transfer(x, eps, s, t)
    return x
