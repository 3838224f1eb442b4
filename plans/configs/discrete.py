"""Sigmas and times of schedulers on a table of timesteps: the code that their classes share."""

from dataclasses import dataclass
from math import inf, log

import numpy as np

from fewstep.plans.configs.classes import OTHER_SIGMAS
from fewstep.plans.configs.config import SchedulerConfig
from fewstep.plans.configs.recipe import ScheduleRequest, check_shift, dynamic_shift
from fewstep.plans.configs.tables import Array
from fewstep.plans.errors import UserError
from fewstep.plans.grids.beta_quantile import beta_quantile

KARRAS_OF_TABLE = ("LMSDiscreteScheduler", "DPMSolverSDEScheduler")  # their Karras sigmas ignore sigma_min, sigma_max


@dataclass(frozen=True)
class SigmaTable:
    """sigma / alpha at t = 0 .. T - 1, and the logarithms, which are rounded to float32 as in diffusers."""

    rhos: Array

    def interpolate(self, timesteps: Array) -> Array:
        """Return sigma / alpha at fractional timesteps, by linear interpolation."""
        rhos: Array = np.interp(timesteps, np.arange(len(self.rhos)), self.rhos)
        return rhos

    @property
    def logs(self) -> Array:
        return np.asarray(np.log(self.rhos.astype(np.float32)).astype(np.float64))

    def timesteps(self, rhos: Array) -> Array:
        """Convert values of sigma / alpha to timesteps, by linear interpolation over their logarithm, clamped to the
        table.

        If times are truncated to integers, rounding decides the result at sigmas of the table. So the operations are
        those of diffusers: the logarithm of rho in float64, the logarithms of the table and their differences in
        float32.
        """
        logs, wanted = self.logs, np.log(rhos)
        least = np.minimum.accumulate(logs[::-1])[::-1]  # least of all noisier ones: float32 tables may decrease
        below = (np.searchsorted(least, wanted, side="right") - 1).clip(0, max(len(logs) - 2, 0))
        span = (logs[below] - logs[np.minimum(below + 1, len(logs) - 1)]).astype(np.float32).astype(np.float64)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = np.nan_to_num(((logs[below] - wanted) / span).clip(0, 1))
        timesteps: Array = (1 - share) * below + share * (below + 1)
        return timesteps


def space_timesteps(
    config: SchedulerConfig, steps: int, *, extra: int = 0, whole: bool, last: int | None = None
) -> Array:
    """Return `steps` timesteps, noisiest first. They are the first ones of `steps + extra` timesteps that begin at
    `last` - 1."""
    T = config["num_train_timesteps"]
    if not 1 <= steps <= T:
        raise UserError(f"{config.source}: {steps} steps do not fit {T} timesteps", f"use 1 to {T} steps")
    spacing, last = config["timestep_spacing"], T if last is None else last
    if spacing == "linspace":
        even = np.linspace(0, last - 1, steps + extra)[::-1][:steps]
        return even.round() if whole else even
    if spacing == "leading":
        below: Array = np.arange(steps + extra, dtype=np.float64)[::-1][:steps] * float(last // (steps + extra))
        return below + float(config["steps_offset"])
    # arange accumulates its rounded stride, which decides halves; it may return one value too many, at timestep -1
    down: Array = np.arange(last, 0, -T / steps).round()[:steps]
    return down - 1.0


def respace_sigmas(config: SchedulerConfig, high: float, low: float, steps: int) -> Array | None:
    """Return Karras, exponential or beta sigmas from high to low, or None if the config uses those of the timesteps."""
    fields = config.fields
    chosen = [name for name in OTHER_SIGMAS if fields.get(name)]
    if len(chosen) > 1:
        raise config.field_error(chosen[1], f"it excludes {chosen[0]}", "set one of them")
    if chosen != ["use_karras_sigmas"] or config.scheduler not in KARRAS_OF_TABLE:
        high = high if fields.get("sigma_max") is None else float(fields["sigma_max"])
        low = low if fields.get("sigma_min") is None else float(fields["sigma_min"])
    if chosen:
        check_ends(config, chosen[0], high, low)
    even = np.linspace(0, 1, steps)
    if fields.get("use_karras_sigmas"):
        return karras(high, low, steps)
    if fields.get("use_exponential_sigmas"):
        return exponential(high, low, steps)
    if fields.get("use_beta_sigmas"):
        return np.array([low + (high - low) * beta_quantile(1 - p, 0.6, 0.6) for p in even])
    return None


def check_ends(config: SchedulerConfig, field: str, high: float, low: float) -> None:
    """Raise UserError unless 0 < low <= high < infinity, so that sigmas between them exist."""
    if not 0 < low <= high < inf:
        fix = "leave it out, or rescale_betas_zero_snr" if high == inf else "correct sigma_min and sigma_max"
        raise config.field_error(field, f"no sigmas can be spaced from {high:g} down to {low:g}", fix)


def karras(high: float, low: float, steps: int, rho: float = 7.0) -> Array:
    """Return sigmas by equation 5 of Karras et al. 2022."""
    ends = high ** (1 / rho), low ** (1 / rho)
    return np.asarray((ends[0] + np.linspace(0, 1, steps) * (ends[1] - ends[0])) ** rho)


def exponential(high: float, low: float, steps: int) -> Array:
    """Return sigmas that are evenly spaced in log(sigma)."""
    return np.exp(np.linspace(log(high), log(low), steps))


def flow_sigmas(config: SchedulerConfig, request: ScheduleRequest) -> Array:
    """Return the sigmas of `use_flow_sigmas`: from nearly 1 down, shifted, without the end."""
    if "mu" in request.arguments:
        shift = dynamic_shift(config, request.arguments["mu"])
    else:
        shift = check_shift(config, "flow_shift", config["flow_shift"])
    sigmas = (1 - np.linspace(1, 1 / config["num_train_timesteps"], request.steps + 1))[:0:-1]
    return np.asarray(shift * sigmas / (1 + (shift - 1) * sigmas))


def stretch_to_terminal(config: SchedulerConfig, sigmas: Array) -> Array:
    """Stretch 1 - sigma of a flow to end at shift_terminal. The order of operations is that of diffusers, since the
    network's times are truncated to integers. One step from sigma 1 has nothing to stretch; diffusers divides by 0."""
    terminal = config["shift_terminal"]
    if not 0 < terminal < 1:
        raise config.field_error("shift_terminal", "it is the last sigma", "give a number between 0 and 1")
    left = 1 - sigmas
    if left[-1] == 0:
        return sigmas
    return np.asarray(1 - left / (left[-1] / (1 - terminal)))
