"""Schedulers of flows: Euler, Heun and ancestral steps, and LCM and SCM for distilled flows."""

from math import cos, sin

import numpy as np

from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.discrete import respace_sigmas, stretch_to_terminal
from fewstep.plans.configs.recipe import (
    ScheduleRequest,
    SchedulerRecipe,
    bind_solver,
    check_shift,
    dynamic_shift,
    flow_time,
)
from fewstep.plans.configs.tables import Array
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time
from fewstep.plans.spec import ScheduleSpec
from fewstep.plans.tracer import Solver


def flow_euler(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of FlowMatchEulerDiscreteScheduler. If it is called with a number of steps, it shifts the
    sigmas twice.

    With use_dynamic_shifting it needs the argument `mu`, or `tokens`, the image's sequence length, from which mu
    follows.
    """
    return _euler(config, request, spec, bind_solver("renoise" if config["stochastic_sampling"] else "ddim"))


def flow_lcm(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of FlowMatchLCMScheduler: the grid of the Euler class, with fresh noise at each step."""
    if config["scale_factors"]:
        raise config.field_error("scale_factors", "a plan's samples keep their size", "leave it out")
    return _euler(config, request, spec, bind_solver("renoise"))


def flow_ancestral(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe that reproduces a config of LTXEulerAncestralRFScheduler, called with a number of steps. Its
    sigmas are those of FlowMatchEulerDiscreteScheduler with the same fields, which its config contains although the
    class does not read them."""
    if config["s_noise"] != 1.0:
        raise config.field_error("s_noise", "plans add noise of standard deviation 1", "leave it out")
    return _euler(config, request, spec, bind_solver("flow_ancestral", eta=float(config["eta"])))


def scm(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of SCMScheduler as SanaSprintPipeline runs it, with angles from 1.5708 down. For two steps, the
    second angle is 1.3.

    x at an angle, divided by sigma_data (cos + sin), is the x of a flow at sigma = sin / (cos + sin): Chen et al. 2025,
    arXiv 2503.09641, section 3.1.
    """
    angles = [1.5708, 1.3] if request.steps == 2 else np.linspace(1.5708, 0.0, request.steps + 1)[:-1]
    sigmas = [min(sin(angle) / (cos(angle) + sin(angle)), 1.0) for angle in angles]  # 1.5708 is beyond pi / 2
    times = [*(flow_time(sigma, sigma) for sigma in sigmas), flow_time(0.0, 0.0)]
    return SchedulerRecipe(times, bind_solver("renoise"), start=1.0)


def _euler(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec, solver: Solver) -> SchedulerRecipe:
    if config["invert_sigmas"]:
        raise config.field_error("invert_sigmas", "noise would increase", "leave it out")
    sigmas = _shift_sigmas(config, request, spec, dynamic=bool(config["use_dynamic_shifting"]))
    if config["shift_terminal"]:
        sigmas = stretch_to_terminal(config, sigmas)
    other = respace_sigmas(config, float(sigmas[0]), float(sigmas[-1]), request.steps)
    if other is not None and other.max() > 1:
        raise config.field_error("sigma_max", "the sigma of a flow is at most 1", "correct sigma_max")
    return _flow(spec, sigmas if other is None else other, solver)


def flow_heun(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of FlowMatchHeunDiscreteScheduler, which also shifts twice. Its grid is evenly spaced in sigma,
    from 1 to the smallest sigma."""
    return _flow(spec, _shift_sigmas(config, request, spec, dynamic=False), bind_solver("heun"))


def _shift_sigmas(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec, *, dynamic: bool) -> Array:
    T, steps, shift = spec.timesteps, request.steps, check_shift(config, "shift", config["shift"])
    even = np.linspace(1.0, 1 / steps, steps)
    if dynamic:
        first, shift = 1.0, dynamic_shift(config, _mu(config, request))
    else:
        first = shift
    if request.sigmas is not None:
        even = np.array(request.sigmas)
    elif not request.even:
        least = first / T / (1 + (first - 1) / T)
        even = np.linspace(1.0, least, steps)
    return np.asarray(shift * even / (1 - even + shift * even))  # exactly 1 for 1


def _mu(config: SchedulerConfig, request: ScheduleRequest) -> float:
    if "mu" in request.arguments:
        return request.arguments["mu"]
    if "tokens" not in request.arguments:
        fix = 'give arguments={"mu": ...} or {"tokens": ...}'
        raise config.field_error("use_dynamic_shifting", "it needs mu, or the image's tokens", fix)
    tokens = request.arguments["tokens"]
    if tokens < 1 or tokens % 1:
        raise UserError(f"{config.source}: tokens={tokens:g} is not a number of tokens", "give an integer from 1 up")
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    if many == few:
        raise config.field_error("max_image_seq_len", "it equals base_image_seq_len", "correct the file")
    slope = (config["max_shift"] - config["base_shift"]) / (many - few)
    return float(config["base_shift"] + slope * (tokens - few))


def _flow(spec: ScheduleSpec, sigmas: Array, solver: Solver) -> SchedulerRecipe:
    times: list[Time] = [flow_time(spec.timesteps * float(sigma), float(sigma)) for sigma in sigmas]
    return SchedulerRecipe([*times, flow_time(0.0, 0.0)], solver, start=1.0)
