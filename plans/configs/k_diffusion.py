"""Schedulers that came from k-diffusion: Euler, Heun, DPM2, their ancestral forms, LMS.

Their x is x / alpha of ours, and the network sees our x. They start at the first sigma, or with `leading` at deviation
1 as the network sees it.
"""

import numpy as np

from fewstep.plans.configs import tables
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.discrete import BETAS, OTHER_SIGMAS, SigmaTable, respaced, schedule, spaced
from fewstep.plans.configs.recipe import (
    ScheduleRequest,
    SchedulerRecipe,
    call,
    check_arguments,
    ended,
    preserving,
    shaping_of,
)
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time

EULER = {
    **BETAS,
    **OTHER_SIGMAS,
    "interpolation_type": "linear",
    "sigma_min": None,
    "sigma_max": None,
    "timestep_type": "discrete",
    "rescale_betas_zero_snr": False,
    "final_sigmas_type": "zero",
}
EULER_ANCESTRAL = {**BETAS, "rescale_betas_zero_snr": False}
KDPM2 = {**BETAS, **OTHER_SIGMAS, "beta_start": 0.00085, "beta_end": 0.012}
HEUN = {**KDPM2, "clip_sample": False, "clip_sample_range": 1.0}
LMS = {**BETAS, **OTHER_SIGMAS}
SDE = {**KDPM2, "noise_sampler_seed": None}


def euler(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """EulerDiscreteScheduler."""
    check_arguments(config, request)
    return _recipe(config, request, "ddim")


def euler_ancestral(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """EulerAncestralDiscreteScheduler."""
    check_arguments(config, request)
    _refuse_sample(config)
    return _recipe(config, request, "ddim", eta=1.0)


def heun(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """HeunDiscreteScheduler."""
    check_arguments(config, request)
    return _recipe(config, request, "edm_heun")


def kdpm2(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """KDPM2DiscreteScheduler, whose Karras timesteps are whole."""
    check_arguments(config, request)
    _refuse_sample(config)
    return _recipe(config, request, "dpm_2", whole_karras=True)


def kdpm2_ancestral(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """KDPM2AncestralDiscreteScheduler."""
    check_arguments(config, request)
    _refuse_sample(config)
    return _recipe(config, request, "dpm_2", whole_karras=True, eta=1.0)


def sde(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """DPMSolverSDEScheduler. Its noise is one Brownian motion, drawn as a tree; the noise of plans has the same law."""
    check_arguments(config, request)
    _refuse_sample(config)
    return _recipe(config, request, "dpmpp_sde")


def lms(config: SchedulerConfig, request: ScheduleRequest) -> SchedulerRecipe:
    """LMSDiscreteScheduler; `order` is an argument of its step, 4 by default."""
    check_arguments(config, request, "order")
    order = request.argument("order", 4)
    if order not in (1, 2, 3, 4):
        raise UserError(f"{config.source}: order={order:g} of {config.scheduler}", "give 1, 2, 3 or 4")
    return _recipe(config, request, "ddim" if order == 1 else f"lms_{order:g}")


def _recipe(
    config: SchedulerConfig,
    request: ScheduleRequest,
    solver: str,
    *,
    whole_karras: bool = False,
    eta: float | None = None,
) -> SchedulerRecipe:
    spec, prediction = schedule(config)
    times = _times(config, request, SigmaTable(tables.rhos(spec)), whole_karras)
    return SchedulerRecipe(
        spec=spec,
        prediction=prediction,
        times=times,
        solver=call(solver, eta=eta),
        start=1.0 if config["timestep_spacing"] == "leading" else None,
        scale=1 / times[-1].alpha,
        shaping=shaping_of(config),
    )


def _times(config: SchedulerConfig, request: ScheduleRequest, table: SigmaTable, whole_karras: bool) -> list[Time]:
    fields = config.fields
    if request.sigmas is not None:
        *sigmas, last = request.sigmas
        timesteps = np.log(sigmas) / 4 if has_edm_times(config) else table.timesteps(np.array(sigmas))
        pairs = zip(timesteps, sigmas, strict=True)
        return ended([*(preserving(float(t), rho) for t, rho in pairs), preserving(0.0, last)])
    timesteps = spaced(config, request.steps, whole=False) if request.timesteps is None else np.array(request.timesteps)
    rhos = table.at(timesteps)
    if fields.get("interpolation_type") == "log_linear":
        # from timestep 0's sigma up to the noisiest: one more than there are steps, in diffusers
        ends = np.log(table.rhos[-1]), np.log(table.rhos[0])
        rhos = np.exp(np.linspace(*ends, request.steps + 1))
        if not any(fields[name] for name in OTHER_SIGMAS):
            raise config.refuse(
                "interpolation_type", "it makes more sigmas than timesteps", "set use_karras_sigmas too"
            )
    other = respaced(config, float(rhos[0]), float(rhos[-1]), request.steps)
    if other is not None:
        rhos, timesteps = other, table.timesteps(other)
        if whole_karras and fields["use_karras_sigmas"]:
            timesteps = timesteps.round()
    if has_edm_times(config):
        timesteps = np.log(rhos) / 4
    end = float(table.rhos[0]) if fields.get("final_sigmas_type") == "sigma_min" else 0.0
    times = [preserving(float(t), float(rho)) for t, rho in zip(timesteps, rhos, strict=True)]
    return ended([*times, preserving(0.0, end)])


def has_edm_times(config: SchedulerConfig) -> bool:
    """Whether the network is passed log(sigma) / 4, as EDM's is."""
    return config.fields.get("timestep_type") == "continuous" and config["prediction_type"] == "v_prediction"


def _refuse_sample(config: SchedulerConfig) -> None:
    if config["prediction_type"] == "sample":
        raise config.refuse("prediction_type", "the class does not have it", "use EulerDiscreteScheduler")
