"""Grids over sigma / alpha, which is the sigma of EDM and k-diffusion. The corresponding network time is looked up and
may be fractional.

All take `sigma_min` and `sigma_max` (None: the ends of the schedule). They place `steps` times from one to the other,
both evaluated, before the clean end. With `final_sigma` the times go down to that sigma instead, and end there.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.grids.beta_quantile import beta_quantile
from fewstep.plans.grids.ends import append_end, check_steps, sigma_span
from fewstep.plans.schedule import NoiseSchedule, Time

Array = NDArray[np.float64]


def karras(
    schedule: NoiseSchedule,
    steps: int,
    *,
    rho: float = 7.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_sigma: float | None = None,
) -> tuple[Time, ...]:
    """Evenly spaced in sigma^(1 / rho): Karras et al. 2022, arXiv 2206.00364, equation 5. rho 1 is evenly spaced in
    sigma, and larger values place more steps at low noise levels."""
    _positive("karras", "rho", rho)

    def place(low: float, high: float, even: Array) -> Array:
        return np.asarray((high ** (1 / rho) + even * (low ** (1 / rho) - high ** (1 / rho))) ** rho)

    return _place_times("karras", place, schedule, steps, sigma_min, sigma_max, final_sigma)


def exponential(
    schedule: NoiseSchedule,
    steps: int,
    *,
    rho: float = 1.0,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_sigma: float | None = None,
) -> tuple[Time, ...]:
    """Evenly spaced in log sigma, or polynomial in it with exponent rho (exponential and polyexponential of
    k-diffusion)."""
    _positive("exponential", "rho", rho)

    def place(low: float, high: float, even: Array) -> Array:
        return np.asarray(low * (high / low) ** ((1 - even) ** rho))

    return _place_times("exponential", place, schedule, steps, sigma_min, sigma_max, final_sigma)


def uniform_lambda(
    schedule: NoiseSchedule,
    steps: int,
    *,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_sigma: float | None = None,
) -> tuple[Time, ...]:
    """Evenly spaced in lambda = log(alpha / sigma), the variable in which DPM-Solver integrates: Lu et al. 2022, arXiv
    2206.00927."""
    return exponential(schedule, steps, sigma_min=sigma_min, sigma_max=sigma_max, final_sigma=final_sigma)


def beta(
    schedule: NoiseSchedule,
    steps: int,
    *,
    a: float = 0.6,
    b: float = 0.6,
    sigma_min: float | None = None,
    sigma_max: float | None = None,
    final_sigma: float | None = None,
) -> tuple[Time, ...]:
    """Sigmas at equidistant quantiles of a Beta(a, b) distribution over [sigma_min, sigma_max]: Lee et al. 2024, arXiv
    2407.12173. With a and b below 1, steps are denser at both ends."""
    _positive("beta", "a", a)
    _positive("beta", "b", b)

    def place(low: float, high: float, even: Array) -> Array:
        return np.array([low + (high - low) * beta_quantile(1 - p, a, b) for p in even])

    return _place_times("beta", place, schedule, steps, sigma_min, sigma_max, final_sigma)


def _place_times(
    grid: str,
    place: Callable[[float, float, Array], Array],
    schedule: NoiseSchedule,
    steps: int,
    sigma_min: float | None,
    sigma_max: float | None,
    final_sigma: float | None,
) -> tuple[Time, ...]:
    """Return the times of the sigmas that `place(low, high, even)` returns, from high to low for `even` from 0 to 1."""
    check_steps(schedule, steps, distinct=False)
    low, high = sigma_span(schedule, final_sigma or sigma_min, sigma_max, grid)
    count = steps + bool(final_sigma)
    sigmas = place(low, high, np.linspace(0, 1, count))
    times = [schedule.time_at_rho(float(sigma)) for sigma in sigmas[:steps]]
    return append_end(schedule, times, final_sigma)


def _positive(grid: str, name: str, value: float) -> None:
    if not 0.01 <= value <= 100:
        raise UserError(f"grid {grid}({name}={value:g}) is out of range", "give a number in 0.01 .. 100")
