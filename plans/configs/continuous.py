"""Schedulers without a table of timesteps: EDM's, consistency models', and those of flows."""

from math import log
from typing import Any

import numpy as np

from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.discrete import OTHER_SIGMAS, THRESHOLDING, exponential, karras, respaced, stretched
from fewstep.plans.configs.dpm import multistep_solver
from fewstep.plans.configs.recipe import (
    ScaledShaping,
    ScheduleRequest,
    SchedulerRecipe,
    check_arguments,
    checked,
    checked_shift,
    dynamic_shift,
    ended,
    exploding,
    named,
    shaping_of,
    straight,
)
from fewstep.plans.configs.tables import Array
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time
from fewstep.plans.shaping import Clip
from fewstep.plans.spec import Prediction, ScheduleSpec
from fewstep.plans.tracer import Solver

EDM = {
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "sigma_schedule": "karras",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "rho": 7.0,
    "final_sigmas_type": "zero",
}
EDM_MULTISTEP = {
    **EDM,
    **THRESHOLDING,
    "solver_order": 2,
    "algorithm_type": "dpmsolver++",
    "solver_type": "midpoint",
    "lower_order_final": True,
    "euler_at_final": False,
}
CONSISTENCY = {
    "num_train_timesteps": 40,
    "sigma_min": 0.002,
    "sigma_max": 80.0,
    "sigma_data": 0.5,
    "s_noise": 1.0,
    "rho": 7.0,
    "clip_denoised": True,
}
FLOW_HEUN = {"num_train_timesteps": 1000, "shift": 1.0}
FLOW_EULER = {
    **FLOW_HEUN,
    **OTHER_SIGMAS,
    "use_dynamic_shifting": False,
    "base_shift": 0.5,
    "max_shift": 1.15,
    "base_image_seq_len": 256,
    "max_image_seq_len": 4096,
    "invert_sigmas": False,
    "shift_terminal": None,
    "time_shift_type": "exponential",
    "stochastic_sampling": False,
}


def edm_schedule(config: SchedulerConfig) -> tuple[ScheduleSpec, Prediction]:
    """EDM's preconditioned network, or with v_prediction minus it."""
    fields = config.fields
    spec = ScheduleSpec(
        "edm", sigma_min=fields["sigma_min"], sigma_max=fields["sigma_max"], sigma_data=fields["sigma_data"]
    )
    predictions: dict[str, Prediction] = {"epsilon": "edm", "v_prediction": "v"}
    if fields["prediction_type"] not in predictions:
        raise config.refuse("prediction_type", "the class preconditions it", "set epsilon or v_prediction")
    return checked(spec), predictions[fields["prediction_type"]]


def edm_euler(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """EDMEulerScheduler."""
    check_arguments(config, request)
    return _edm(config, request, named("ddim"))


def edm_multistep(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """EDMDPMSolverMultistepScheduler."""
    check_arguments(config, request)
    if config["algorithm_type"] not in ("dpmsolver++", "sde-dpmsolver++", "deis"):
        raise config.refuse("algorithm_type", "the class does not have it", "set dpmsolver++")
    return _edm(config, request, multistep_solver(config, request))


def _edm(config: SchedulerConfig, request: ScheduleRequest, solver: Solver) -> SchedulerRecipe:
    spec, prediction = edm_schedule(config)
    low, high = float(config["sigma_min"]), float(config["sigma_max"])
    place: Any = karras if config["sigma_schedule"] == "karras" else exponential
    rho = (_rho(config),) if place is karras else ()
    sigmas, least = place(high, low, request.steps, *rho), low
    if request.steps == 1:
        if place is exponential:
            sigmas = [low]  # its exponential grid is laid from sigma_min up
        if config.scheduler == "EDMEulerScheduler":
            least = float(sigmas[0])  # where it ends at sigma_min, that is the last sigma of its grid
    times = [exploding(log(sigma) / 4, float(sigma)) for sigma in sigmas]
    end = least if config["final_sigmas_type"] == "sigma_min" else 0.0
    times = ended([*times, exploding(0.0, end)])
    # the deviation of data of deviation 1 with the noise of sigma_max
    return SchedulerRecipe(spec, prediction, times, solver, start=(high**2 + 1) ** 0.5, shaping=shaping_of(config))


def consistency_schedule(config: SchedulerConfig) -> tuple[ScheduleSpec, Prediction]:
    """A consistency model's schedule; the network's time is 250 log sigma."""
    fields = config.fields
    low, high, data = (float(fields[name]) for name in ("sigma_min", "sigma_max", "sigma_data"))
    spec = ScheduleSpec("edm", sigma_min=low, sigma_max=high, sigma_data=data, time_scale=1000.0)
    return checked(spec), "consistency"


def consistency(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """CMStochasticIterativeScheduler: the first of the noisiest of T Karras sigmas, T // N apart."""
    check_arguments(config, request)
    spec, prediction = consistency_schedule(config)
    T, low, high = config["num_train_timesteps"], float(config["sigma_min"]), float(config["sigma_max"])
    if config["s_noise"] != 1.0:
        raise config.refuse("s_noise", "plans add noise of deviation 1", "leave it out")
    if not 1 <= request.steps <= T:
        raise UserError(f"{config.source}: {request.steps} steps of {T} timesteps", f"ask for 1 .. {T} steps")
    if T == 1:
        raise config.refuse("num_train_timesteps", "a grid of one sigma has no step", "set 2 or more")
    sigmas = karras(high, low, T, _rho(config))[:: T // request.steps][: request.steps]
    times = [exploding(250 * log(sigma), float(sigma)) for sigma in sigmas]
    times = ended([*times, exploding(0.0, low)])
    shaping = ScaledShaping(Clip(-1.0, 1.0) if config["clip_denoised"] else None)
    return SchedulerRecipe(spec, prediction, times, named("consistency"), shaping=shaping)


def _rho(config: SchedulerConfig) -> float:
    rho = float(config["rho"])
    if not 0.01 <= rho <= 100:
        raise config.refuse("rho", "sigmas are laid even in sigma^(1 / rho)", "give a number in 0.01 .. 100")
    return rho


def flow_schedule(config: SchedulerConfig) -> tuple[ScheduleSpec, Prediction]:
    """A straight path, its velocity predicted."""
    return checked(ScheduleSpec("flow", config["num_train_timesteps"])), "flow"


def flow_euler(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """FlowMatchEulerDiscreteScheduler, called with a number of steps: it then shifts twice.

    With use_dynamic_shifting `mu` is an argument, or `tokens`, the image's sequence length, from which it follows.
    """
    check_arguments(config, request, "mu", "tokens")
    if config["invert_sigmas"]:
        raise config.refuse("invert_sigmas", "x would gain noise", "leave it out")
    sigmas = _shifted(config, request, dynamic=bool(config["use_dynamic_shifting"]))
    if config["shift_terminal"]:
        sigmas = stretched(config, sigmas)
    other = respaced(config, float(sigmas[0]), float(sigmas[-1]), request.steps)
    solver = "renoise" if config["stochastic_sampling"] else "ddim"
    return _flow(config, request, sigmas if other is None else other, solver)


def flow_heun(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """FlowMatchHeunDiscreteScheduler: shifted twice as well, and even in sigma from 1 down to the least."""
    check_arguments(config, request)
    return _flow(config, request, _shifted(config, request, dynamic=False), "heun")


def _shifted(config: SchedulerConfig, request: ScheduleRequest, *, dynamic: bool) -> Array:
    T, steps, shift = flow_schedule(config)[0].timesteps, request.steps, checked_shift(config, "shift", config["shift"])
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
    return np.asarray(shift * even / (1 - even + shift * even))  # in this form exactly 1 where it is 1


def _mu(config: SchedulerConfig, request: ScheduleRequest) -> float:
    if "mu" in request.arguments:
        return request.arguments["mu"]
    if "tokens" not in request.arguments:
        fix = 'give arguments={"mu": ...} or {"tokens": ...}'
        raise config.refuse("use_dynamic_shifting", "it needs mu, or the image's tokens", fix)
    tokens = request.arguments["tokens"]
    if tokens < 1 or tokens % 1:
        raise UserError(f"{config.source}: tokens={tokens:g} is no number of tokens", "give 1 or more")
    few, many = config["base_image_seq_len"], config["max_image_seq_len"]
    if many == few:
        raise config.refuse("max_image_seq_len", "the same as base_image_seq_len", "mend the file")
    slope = (config["max_shift"] - config["base_shift"]) / (many - few)
    return float(config["base_shift"] + slope * (tokens - few))


def _flow(config: SchedulerConfig, request: ScheduleRequest, sigmas: Array, solver: str) -> SchedulerRecipe:
    spec, prediction = flow_schedule(config)
    times: list[Time] = [straight(spec.timesteps * float(sigma), float(sigma)) for sigma in sigmas]
    return SchedulerRecipe(spec, prediction, [*times, straight(0.0, 0.0)], named(solver), start=1.0)
