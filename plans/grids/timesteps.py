"""Grids over the network's time: evenly spaced in it, or in its square root. For tables, times are whole timesteps."""

import math

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.grids.ends import append_end, check_steps
from fewstep.plans.schedule import NoiseSchedule, Time


def trailing(schedule: NoiseSchedule, steps: int, *, final_sigma: float | None = None) -> tuple[Time, ...]:
    """Evenly spaced from the noisiest time, with all steps equally long: Lin et al. 2024, arXiv 2305.08891, table 2.

    It starts at the noisiest trained timestep, as a sampler that starts from pure noise must. For schedules without
    timesteps it is evenly spaced in the process's own time. For EDM this is the grid `karras`, which reaches sigma_min.
    """
    check_steps(schedule, steps)
    T = schedule.timesteps
    if T is not None:
        times = [schedule.time(float(round(T - i * T / steps) - 1)) for i in range(steps)]
    elif schedule.cleanest.sigma > 0:
        times = [schedule.clock(1 - i / max(steps - 1, 1)) for i in range(steps)]
    else:
        times = [schedule.clock(1 - i / steps) for i in range(steps)]
    return append_end(schedule, times, final_sigma)


def linspace(
    schedule: NoiseSchedule, steps: int, *, last: float | None = None, final_sigma: float | None = None
) -> tuple[Time, ...]:
    """Evenly spaced from the noisiest time to the cleanest (Nichol & Dhariwal 2021, arXiv 2102.09672), both evaluated.

    `last` is the network time of the last evaluation. None is timestep 0 of a table, a thousandth of the time range of
    a flow, 3 / 100 for an OU process (Richter et al. 2023), and sigma_min for other schedules.
    """
    check_steps(schedule, steps)
    path = schedule.path
    if last is None:
        last = path.first + (path.last - path.first) * {"flow": 0.001, "ou": 0.03}.get(schedule.spec.kind, 0.0)
    if not path.first <= last < path.last:
        raise UserError(
            f"grid linspace(last={last:g}) is outside schedule {schedule.name}",
            f"give a time in {path.first:g} .. {path.last:g}",
        )
    even = np.linspace(path.last, last, steps)
    return append_end(schedule, [schedule.time(t) for t in _round_times(schedule, even)], final_sigma)


def leading(
    schedule: NoiseSchedule, steps: int, *, offset: int = 0, final_sigma: float | None = None
) -> tuple[Time, ...]:
    """Timesteps from `offset` up, T // steps apart: the grid of DDPM and DDIM, which does not reach the noisiest time.

    Samplers that start from pure noise should not use it (Lin et al. 2024, arXiv 2305.08891). It is for parity with
    other libraries.
    """
    check_steps(schedule, steps)
    T = _timesteps(schedule, "leading")
    times = [schedule.time(float(i * (T // steps) + offset)) for i in reversed(range(steps))]
    return append_end(schedule, times, final_sigma)


def quadratic(
    schedule: NoiseSchedule, steps: int, *, reach: float = 1.0, final_sigma: float | None = None
) -> tuple[Time, ...]:
    """Evenly spaced in the square root of the timestep (Song, Meng, Ermon 2021, arXiv 2010.02502, appendix D.2), from
    `reach` times the noisiest timestep (0.8 in the published code) to timestep 0."""
    check_steps(schedule, steps)
    T = _timesteps(schedule, "quadratic")
    if not 0 < reach <= 1:
        raise UserError(f"grid quadratic(reach={reach:g}) is out of range", "give a share of the timesteps, in 0 .. 1")
    even = np.linspace(math.sqrt(reach * (T - 1)), 0, steps) ** 2
    return append_end(schedule, [schedule.time(t) for t in _round_times(schedule, even)], final_sigma)


def lcm(
    schedule: NoiseSchedule, steps: int, *, original_steps: int = 50, final_sigma: float | None = None
) -> tuple[Time, ...]:
    """A subset of the `original_steps` timesteps at which a consistency model was distilled: Luo et al. 2023,
    arXiv 2310.04378."""
    check_steps(schedule, steps)
    T = _timesteps(schedule, "lcm")
    if not steps <= original_steps <= T:
        raise UserError(
            f"grid lcm cannot take {steps} of {original_steps} original steps on schedule {schedule.name}",
            f"use steps <= original_steps <= {T}",
        )
    trained = np.arange(original_steps, 0, -1) * (T // original_steps) - 1
    chosen = np.floor(np.linspace(0, original_steps, steps, endpoint=False)).astype(int)
    return append_end(schedule, [schedule.time(float(t)) for t in trained[chosen]], final_sigma)


def _timesteps(schedule: NoiseSchedule, grid: str) -> int:
    if schedule.timesteps is None:
        raise UserError(
            f"grid {grid} needs timesteps, which schedule {schedule.name} does not have", "use trailing or karras"
        )
    return schedule.timesteps


def _round_times(schedule: NoiseSchedule, times: np.ndarray) -> list[float]:
    return [float(t) for t in (times.round() if schedule.timesteps else times)]
