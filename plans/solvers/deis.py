"""DEIS (Zhang & Chen 2023, arXiv 2204.13902): t-AB, the paper's choice, and log-rho-AB. Its rho-AB is `lms`.

Order k uses k values of the predicted noise. The paper counts the degree of the polynomial, so deis_t_3 is its tAB2.
DEIS of diffusers is log-rho. The first steps have first, second, ... order. The step to the clean end, where lambda is
infinite, and the step from pure noise have first order. `lower_order_final` lowers the order in the last steps, for
grids that do not end clean.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import ceil, floor

import numpy as np

from fewstep.plans.publication import Published, published_orders
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.solvers.multistep import Array, Variable, adams_bashforth, gauss_legendre
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Zhang & Chen 2023, arXiv 2204.13902"


@published_orders({k: Published(PAPER, order=k, rows=k) for k in (2, 3, 4)})
def deis_t(trace: Tracer, times: Sequence[Time], *, order: int) -> Lin:
    """DEIS with polynomials in the network's time (t-AB)."""
    return adams_bashforth(trace, times, order, TIMESTEP)


@published_orders({k: Published(PAPER, order=k, rows=k) for k in (2, 3)})
def deis_log_rho(trace: Tracer, times: Sequence[Time], *, order: int, lower_order_final: bool = False) -> Lin:
    """DEIS with polynomials in lambda (log-rho-AB)."""
    return adams_bashforth(trace, times, order, LOG_RHO, lower_order_final)


def _masses(lams: Array, weights: Array, t: Time) -> Array:
    """Return alpha_t d rho = -sigma_t e^(lambda_t - lambda) d lambda at quadrature points."""
    masses: Array = -t.sigma * np.exp(t.lam - lams) * weights
    return masses


def _quadrature_in_lambda(schedule: NoiseSchedule, s: Time, t: Time) -> tuple[Array, Array]:
    lams, weights = gauss_legendre(np.array([s.lam, t.lam]), 40)
    return lams, _masses(lams, weights, t)


@lru_cache(maxsize=256)
def _quadrature_in_timestep(schedule: NoiseSchedule, s: Time, t: Time) -> tuple[Array, Array]:
    """Integrate over t(lambda). For a table, its slope jumps at every whole timestep, so each interval is separate."""
    if schedule.timesteps is None:
        lams, weights = gauss_legendre(np.array([s.lam, t.lam]), 40)
    else:
        corners = _corners(schedule)[floor(t.network) + 1 : ceil(s.network)][::-1]
        lams, weights = gauss_legendre(np.array([s.lam, *corners, t.lam]), 8)
    return schedule.network_time(lams), _masses(lams, weights, t)


@lru_cache(maxsize=4)
def _corners(schedule: NoiseSchedule) -> Array:
    """Return lambda at the integer timesteps of a discrete schedule, where the derivative of t(lambda) jumps."""
    return np.array([schedule.lam(n) for n in range(schedule.timesteps or 0)])


TIMESTEP = Variable(lambda time: time.network, _quadrature_in_timestep)
LOG_RHO = Variable(lambda time: time.lam, _quadrature_in_lambda)
