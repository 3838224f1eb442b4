"""Grids as tables: published results of a search, and user-supplied times.

A table is for a model and a number of steps. For other numbers of steps it is interpolated linearly in lambda, as its
authors do.
"""

from collections.abc import Sequence

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.grids.ends import append_end, check_steps
from fewstep.plans.schedule import NoiseSchedule, Time

# Sabour, Fidler, Kreis 2024 (arXiv 2404.14507), for 10 steps: timesteps of 1000, and sigmas of Stable Video Diffusion
AYS_SD = (999, 850, 736, 645, 545, 455, 343, 233, 124, 24)
AYS_SDXL = (999, 845, 730, 587, 443, 310, 193, 116, 53, 13)
AYS_SVD = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034)


def ays_sd(schedule: NoiseSchedule, steps: int) -> tuple[Time, ...]:
    """Align Your Steps for Stable Diffusion 1.5 and models derived from it: Sabour et al. 2024, arXiv 2404.14507."""
    return _interpolate_table(schedule, steps, _scale_timesteps(schedule, AYS_SD, "ays_sd"))


def ays_sdxl(schedule: NoiseSchedule, steps: int) -> tuple[Time, ...]:
    """Align Your Steps for Stable Diffusion XL: Sabour et al. 2024, arXiv 2404.14507."""
    return _interpolate_table(schedule, steps, _scale_timesteps(schedule, AYS_SDXL, "ays_sdxl"))


def ays_svd(schedule: NoiseSchedule, steps: int) -> tuple[Time, ...]:
    """Align Your Steps for Stable Video Diffusion, on its sigmas: Sabour et al. 2024, arXiv 2404.14507."""
    return _interpolate_table(schedule, steps, [schedule.time_at_rho(sigma) for sigma in AYS_SVD])


def table(schedule: NoiseSchedule, steps: int, *, sigmas: tuple[float, ...]) -> tuple[Time, ...]:
    """Your own table of sigma / alpha, noisiest first, interpolated to `steps`, such as the result of AYS or GITS (Chen
    et al. 2024, arXiv 2405.11326) for a model."""
    if len(sigmas) < 2 or not all(0 < sigma < 1e6 for sigma in sigmas):
        raise UserError(
            f"grid table has {len(sigmas)} sigmas, or one out of range",
            "give two or more, all positive and below 1e6, noisiest first",
        )
    return _interpolate_table(schedule, steps, [schedule.time_at_rho(sigma) for sigma in sigmas])


def custom(
    schedule: NoiseSchedule,
    steps: int,
    *,
    times: tuple[float, ...],
    told: tuple[float, ...] | None = None,
    final_sigma: float | None = None,
) -> tuple[Time, ...]:
    """Your own network times, noisiest first, one per step.

    `told`: the times that the network receives instead, one per step. The coefficients remain those of `times`. It is
    for networks distilled with a shifted time, such as NitroFusion (Chen et al. 2024, arXiv 2412.02030).
    """
    check_steps(schedule, steps, distinct=False)
    for name, given in (("times", times), ("told", told)):
        if given is not None and len(given) != steps:
            what = f"grid custom has {len(given)} {name} for {steps} steps"
            fewer = f"use {len(times)} steps, or " if times else ""
            raise UserError(what, f"{fewer}give one value for each step")
    if told is not None and not all(abs(time) <= float(np.finfo(np.float32).max) for time in told):
        raise UserError(
            f"grid custom would pass the network the times {told}", "give numbers that are finite in float32"
        )
    points = [schedule.time(t) for t in times]
    if told is not None:
        points = [Time(t, point.alpha, point.sigma) for t, point in zip(told, points, strict=True)]
    return append_end(schedule, points, final_sigma)


def _scale_timesteps(schedule: NoiseSchedule, timesteps: Sequence[int], grid: str) -> list[Time]:
    if schedule.timesteps != 1000:
        raise UserError(f"grid {grid} needs 1000 timesteps, unlike schedule {schedule.name}", "use karras or trailing")
    return [schedule.time(float(t)) for t in timesteps]


def _interpolate_table(schedule: NoiseSchedule, steps: int, points: list[Time]) -> tuple[Time, ...]:
    """Return the table of times if it has `steps` times; otherwise interpolate it in lambda. The interpolated curve
    also goes through the schedule's cleanest time, which the clean end then replaces."""
    check_steps(schedule, steps, distinct=False)
    if steps == len(points):
        return append_end(schedule, points, None)
    lams, end = [point.lam for point in points], schedule.cleanest.lam
    if points[-1].lam < end < np.inf:
        at = np.linspace(0, len(lams), steps + 1)[:-1]
        lams.append(end)
    else:
        at = np.linspace(0, len(lams) - 1, steps)
    return append_end(schedule, [schedule.time_at_lam(float(np.interp(i, range(len(lams)), lams))) for i in at], None)
