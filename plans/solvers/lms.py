"""Linear multistep in sigma / alpha: k-diffusion's LMS, and rho-AB-DEIS (Zhang & Chen 2023, arXiv 2204.13902).

This is Adams-Bashforth with the coefficients of the actual, uneven steps, and so is iPNDM_v. (The released code of
iPNDM_v has errors in the weights of third and fourth order, so that they do not sum to 1 on every grid.) The first
steps have first, second, ... order, and a step from pure noise has first order. The step to the clean end (rho = 0) has
full order, as in k-diffusion.
"""

from collections.abc import Sequence

import numpy as np

from fewstep.plans.publication import Published, published_orders
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.solvers.multistep import Array, Variable, adams_bashforth, gauss_legendre
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@published_orders({k: Published("Zhang & Chen 2023, arXiv 2204.13902", order=k, rows=k) for k in (2, 3, 4)})
def lms(trace: Tracer, times: Sequence[Time], *, order: int) -> Lin:
    """LMS: polynomials in sigma / alpha through `order` values of the predicted noise."""
    return adams_bashforth(trace, times, order, RHO)


def _quadrature(schedule: NoiseSchedule, s: Time, t: Time) -> tuple[Array, Array]:
    points, weights = gauss_legendre(np.array([s.rho, t.rho]), 4)  # exact for polynomials up to degree 7
    return points, t.alpha * weights


RHO = Variable(lambda time: time.rho, _quadrature, reaches_clean=True)
