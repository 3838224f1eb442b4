"""Common parts of all grids: the number of steps and the end."""

import math
from collections.abc import Sequence

from fewstep.plans.errors import UserError
from fewstep.plans.schedule import CLEAN, NoiseSchedule, Time, check_times

STEPS_LIMIT = 10_000  # maximum number of steps, also in continuous time


def check_steps(schedule: NoiseSchedule, steps: int, *, distinct: bool = True) -> None:
    """Raise UserError unless the number of steps is positive. With `distinct`, for grids that visit a timestep only
    once, it must not exceed the number of timesteps."""
    if steps < 1:
        raise UserError(f"{steps} steps give no sample", "use at least 1 step")
    if steps > STEPS_LIMIT:
        raise UserError(f"{steps} steps are too many for a plan", f"use at most {STEPS_LIMIT} steps")
    T = schedule.timesteps
    if distinct and T is not None and steps > T:
        raise UserError(f"{steps} steps on schedule {schedule.name}, which has {T} timesteps", f"use at most {T} steps")


def append_end(schedule: NoiseSchedule, times: Sequence[Time], final_sigma: float | None) -> tuple[Time, ...]:
    """Append the clean end, or the point where sigma / alpha is `final_sigma`. Raises UserError unless noise decreases
    at every step."""
    if final_sigma is not None and not 0 <= final_sigma < math.inf:
        raise UserError(f"a grid cannot end at sigma {final_sigma:g}", "give a positive number, or leave it out")
    end = schedule.time_at_rho(final_sigma) if final_sigma else CLEAN
    check_times([*times, end])
    return (*times, end)


def sigma_span(
    schedule: NoiseSchedule, sigma_min: float | None, sigma_max: float | None, grid: str
) -> tuple[float, float]:
    """Return (sigma_min, sigma_max) in sigma / alpha. For an argument that is None, the value at the corresponding end
    of the schedule is used. If that is 0 or infinite (both ends of a flow), it is the value at a thousandth of the
    schedule's duration from that end."""
    path = schedule.path
    inside = (path.last - path.first) / 1000
    low = schedule.cleanest.rho or schedule.time(path.first + inside).rho
    high = schedule.noisiest.rho
    high = high if high < math.inf else schedule.time(path.last - inside).rho
    low, high = low if sigma_min is None else sigma_min, high if sigma_max is None else sigma_max
    if not 0 < low < high < math.inf:
        raise UserError(
            f"grid {grid} cannot go from sigma {high:g} to {low:g}",
            "give sigma_min and sigma_max with 0 < sigma_min < sigma_max",
        )
    return low, high
