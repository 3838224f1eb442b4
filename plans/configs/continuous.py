"""Schedulers that have neither discrete timesteps nor a flow: those of EDM, Stable Audio and consistency models."""

from contextlib import suppress
from math import atan, log, pi

import numpy as np

from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.discrete import exponential, karras
from fewstep.plans.configs.dpm import multistep_solver
from fewstep.plans.configs.recipe import (
    ScaledShaping,
    ScheduleRequest,
    SchedulerRecipe,
    append_end,
    bind_solver,
    shaping_of,
    variance_exploding_time,
    variance_preserving_time,
)
from fewstep.plans.configs.tables import Array
from fewstep.plans.errors import UserError
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.tracer import Solver


def edm_euler(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of EDMEulerScheduler."""
    return _edm(config, request, bind_solver("ddim"))


def edm_multistep(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of EDMDPMSolverMultistepScheduler."""
    return _edm(config, request, multistep_solver(config, request))


def _edm(config: SchedulerConfig, request: ScheduleRequest, solver: Solver) -> SchedulerRecipe:
    *sigmas, end = _sigmas(config, request)
    times = append_end(
        [*(variance_exploding_time(log(sigma) / 4, sigma) for sigma in sigmas), variance_exploding_time(0.0, end)]
    )
    high = float(config["sigma_max"])
    # the standard deviation of data of standard deviation 1 with the noise of sigma_max
    return SchedulerRecipe(times, solver, start=(high**2 + 1) ** 0.5, shaping=shaping_of(config))


def _sigmas(config: SchedulerConfig, request: ScheduleRequest) -> list[float]:
    """Return the sigmas at which the steps begin, followed by the sigma at which the last step ends."""
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    is_karras = config["sigma_schedule"] == "karras"
    sigmas, least = (_karras(config, request.steps) if is_karras else exponential(high, low, request.steps)), low
    if request.steps == 1:
        if not is_karras:
            sigmas = np.array([low])  # diffusers computes its exponential grid from sigma_min up
        if config.scheduler == "EDMEulerScheduler":
            least = float(sigmas[0])  # with final_sigmas_type sigma_min it ends at the last sigma of its grid
    return [*map(float, sigmas), least if config["final_sigmas_type"] == "sigma_min" else 0.0]


def cosine_multistep(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of CosineDPMSolverMultistepScheduler, of Stable Audio. Its noise comes from a Brownian tree,
    and has the same distribution as the noise of plans."""
    if config["solver_order"] > 2:
        raise config.field_error("solver_order", "the class does not have this order", "set 2")
    *sigmas, end = _sigmas(config, request)
    times = append_end(
        [
            *(variance_preserving_time(2 / pi * atan(sigma), sigma) for sigma in sigmas),
            variance_preserving_time(0.0, end),
        ]
    )
    solver = multistep_solver(config.with_fields(algorithm_type="sde-dpmsolver++"), request)
    start = (float(config["sigma_max"]) ** 2 + 1) ** 0.5 * times[0].alpha  # 1, unless a step starts at sigma_min
    return SchedulerRecipe(times, solver, start=start, scale=1 / times[-1].alpha)


def consistency(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of CMStochasticIterativeScheduler. Its times are N of T Karras sigmas, T // N apart, starting
    at the noisiest."""
    T, low = config["num_train_timesteps"], float(config["sigma_min"])
    if config["s_noise"] != 1.0:
        raise config.field_error("s_noise", "plans add noise of standard deviation 1", "leave it out")
    if not 1 <= request.steps <= T:
        raise UserError(f"{config.source}: {request.steps} steps do not fit {T} timesteps", f"use 1 to {T} steps")
    if T == 1:
        raise config.field_error("num_train_timesteps", "a grid of one sigma has no step", "set 2 or more")
    sigmas = _karras(config, T)[:: T // request.steps][: request.steps]
    times = [variance_exploding_time(250 * log(sigma), float(sigma)) for sigma in sigmas]
    times = append_end([*times, variance_exploding_time(0.0, low)])
    shaping = ScaledShaping(Clip(-1.0, 1.0) if config["clip_denoised"] else None)
    return SchedulerRecipe(times, bind_solver("consistency"), shaping=shaping)


def _karras(config: SchedulerConfig, steps: int) -> Array:
    """Return sigmas from sigma_max to sigma_min. Raises UserError for a rho with which they overflow or round to 0."""
    rho, high, low = (float(config[name]) for name in ("rho", "sigma_max", "sigma_min"))
    if not 0.01 <= rho <= 100:
        raise config.field_error("rho", "sigmas are evenly spaced in sigma^(1 / rho)", "give a number in 0.01 .. 100")
    with suppress(OverflowError):
        sigmas = karras(high, low, steps, rho)
        if (sigmas > 0).all():
            return sigmas
    raise config.field_error("rho", f"{high:g} and {low:g} to the power of 1 / rho are not finite", "give 1 or more")
