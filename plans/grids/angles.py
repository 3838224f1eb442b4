"""A grid of equal steps in an angle. In it, the distance from pure noise to the clean sample is finite."""

import math

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.grids.ends import append_end, check_steps
from fewstep.plans.schedule import NoiseSchedule, Time


def arctan(
    schedule: NoiseSchedule,
    steps: int,
    *,
    power: float = 2.5,
    centre: float = 2.0,
    final_sigma: float | None = None,
) -> tuple[Time, ...]:
    """Evenly spaced in arctan((sigma / alpha / centre)^(1 / power)), starting at the noisiest time, which may be pure
    noise.

    Steps have equal length in this angle, down to the schedule's smallest sigma or to `final_sigma`. Without
    `final_sigma`, the last step continues to sigma = 0. If the last evaluation would be below the cleanest time at
    which networks are evaluated, the evaluations are spaced evenly down to that time instead. Power 1 is the angle of
    variance-preserving schedules, in which the cosine schedule is evenly spaced (Nichol & Dhariwal 2021, arXiv
    2102.09672). Large powers approach `uniform_lambda`. In lambda, times are densest where sigma / alpha is `centre`.
    """
    check_steps(schedule, steps, distinct=False)
    for name, value in (("power", power), ("centre", centre)):
        if not 0.01 <= value <= 100:
            raise UserError(f"grid arctan({name}={value:g}) is out of range", "give a number in 0.01 .. 100")

    def angle(time: Time) -> float:
        return math.atan((time.rho / centre) ** (1 / power))

    first, last = schedule.noisiest, schedule.time_at_rho(final_sigma) if final_sigma else schedule.cleanest
    angles, least = np.linspace(angle(first), angle(last), steps + 1)[1:-1], angle(_find_cleanest_time(schedule))
    if len(angles) and angles[-1] < least:
        angles = np.linspace(angle(first), least, steps)[1:]
    times = [first, *(schedule.time_at_rho(centre * math.tan(angle) ** power) for angle in angles)]
    return append_end(schedule, times, final_sigma)


def _find_cleanest_time(schedule: NoiseSchedule) -> Time:
    """Return the cleanest time at which the network is evaluated, for any number of steps. At a clean end without
    noise, a score would be infinite. Networks of OU processes are trained on times from 3 / 100 (Richter et al. 2023,
    arXiv 2208.05830)."""
    path, share = schedule.path, {"ou": 0.03}.get(schedule.spec.kind, 1e-4)
    return (
        schedule.cleanest if schedule.cleanest.sigma else schedule.time(path.first + share * (path.last - path.first))
    )
