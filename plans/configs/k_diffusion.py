"""Schedulers from k-diffusion: Euler, Heun, DPM2, their ancestral variants, and LMS.

Their x is x / alpha in the terms of plans, and the network receives x. They start at the first sigma, or with `leading`
so that the network's input has standard deviation 1.
"""

import numpy as np

from fewstep.plans.configs import tables
from fewstep.plans.configs.classes import OTHER_SIGMAS
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.discrete import SigmaTable, respace_sigmas, space_timesteps
from fewstep.plans.configs.recipe import (
    Recipe,
    ScheduleRequest,
    SchedulerRecipe,
    append_end,
    bind_solver,
    shaping_of,
    variance_preserving_time,
)
from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time
from fewstep.plans.spec import ScheduleSpec


def recipe(solver: str, *, whole_karras: bool = False, eta: float | None = None) -> Recipe:
    """Return a function that makes the recipe of a scheduler class that implements this solver. `whole_karras`: whether
    the class rounds the timesteps of Karras grids.

    Noise that a class draws from a Brownian tree has the same distribution as the noise of a plan.
    """

    def make_recipe(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
        times = _times(config, request, SigmaTable(tables.rhos(spec)), whole_karras)
        return SchedulerRecipe(
            times=times,
            solver=bind_solver(solver, eta=eta),
            start=1.0 if config["timestep_spacing"] == "leading" else None,
            scale=1 / times[-1].alpha,
            shaping=shaping_of(config),
        )

    return make_recipe


def lms(config: SchedulerConfig, request: ScheduleRequest, spec: ScheduleSpec) -> SchedulerRecipe:
    """Return the recipe of LMSDiscreteScheduler. `order` is an argument of its step, 4 by default."""
    order = request.argument("order", 4)
    if order not in (1, 2, 3, 4):
        raise UserError(f"{config.source}: {config.scheduler} has no order={order:g}", "give 1, 2, 3 or 4")
    return recipe("ddim" if order == 1 else f"lms_{order:g}")(config, request, spec)


def _times(config: SchedulerConfig, request: ScheduleRequest, table: SigmaTable, whole_karras: bool) -> list[Time]:
    fields = config.fields
    if request.sigmas is not None:
        *sigmas, last = request.sigmas
        timesteps = np.log(sigmas) / 4 if has_edm_times(config) else table.timesteps(np.array(sigmas))
        pairs = zip(timesteps, sigmas, strict=True)
        return append_end(
            [*(variance_preserving_time(float(t), rho) for t, rho in pairs), variance_preserving_time(0.0, last)]
        )
    timesteps = (
        space_timesteps(config, request.steps, whole=False)
        if request.timesteps is None
        else np.array(request.timesteps)
    )
    rhos = table.interpolate(timesteps)
    if fields.get("interpolation_type") == "log_linear":
        # diffusers interpolates from the sigma of timestep 0 to the noisiest, with one more sigma than steps
        ends = np.log(table.rhos[-1]), np.log(table.rhos[0])
        rhos = np.exp(np.linspace(*ends, request.steps + 1))
        if not any(fields[name] for name in OTHER_SIGMAS):
            raise config.field_error(
                "interpolation_type", "it gives more sigmas than timesteps", "set use_karras_sigmas too"
            )
    other = respace_sigmas(config, float(rhos[0]), float(rhos[-1]), request.steps)
    if other is not None:
        rhos, timesteps = other, table.timesteps(other)
        if whole_karras and fields["use_karras_sigmas"]:
            timesteps = timesteps.round()
    if has_edm_times(config):
        timesteps = np.log(rhos) / 4
    end = float(table.rhos[0]) if fields.get("final_sigmas_type") == "sigma_min" else 0.0
    times = [variance_preserving_time(float(t), float(rho)) for t, rho in zip(timesteps, rhos, strict=True)]
    return append_end([*times, variance_preserving_time(0.0, end)])


def has_edm_times(config: SchedulerConfig) -> bool:
    """True if the network's times are log(sigma) / 4, as in EDM."""
    return config.fields.get("timestep_type") == "continuous" and config["prediction_type"] == "v_prediction"
