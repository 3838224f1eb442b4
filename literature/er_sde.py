"""ER-SDE-Solver (Cui et al. 2023, arXiv 2309.06169): a solver of the extended reverse-time SDE, which uses the
predicted x0.

With y = x / alpha and rho = sigma / alpha, the extended SDE has the solution

    y_t = r y_s + (1 - r) x0_s + ((rho_t - rho_s) + phi_t I_0) x0' + ((rho_t - rho_s)^2 / 2 + phi_t I_1) x0''
        + sqrt(rho_t^2 - r^2 rho_s^2) z,     r = phi_t / phi_s,     I_k = int_t^s (rho - rho_s)^k / phi(rho) d rho,

where x0' and x0'' are derivatives in rho. The noise scale phi selects the SDE: phi = rho is the ODE, and phi = rho^2 is
the reverse-time SDE. This module uses the authors' choice, phi = rho (e^(rho^0.3) + 10), which approaches the ODE for
small noise.

Derivatives are divided differences. As in the authors' code, x0'' does not correct x0', so orders 2 and 3 are exact for
an x0 that is linear in rho. The authors' code sums I_k over 100 points; here it is exact up to rounding errors.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, expm1, isinf, log, sqrt

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import noise_left
from fewstep.plans.solvers.multistep import gauss_legendre
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

NODES = 64  # quadrature points: even a step from the noisiest time to nearly clean is exact up to rounding


@Published("Cui et al. 2023, arXiv 2309.06169", order=2, rows=3)
def er_sde(trace: Tracer, times: Sequence[Time], *, order: int = 3) -> Lin:
    """Sample with the VE and VP ER-SDE-Solver, which are the same in terms of y and rho.

    The order increases from 1 in the first steps. Steps from pure noise and to the clean end have order 1.

    Args:
        order: 1 to 3, the number of the terms in x0, x0' and x0'' that are used.
    """
    if not 1 <= order <= 3:
        raise UserError(f"er_sde has no order {order}", "choose order in 1 .. 3")
    x = trace.start()
    x0s: list[Lin] = []  # pairs of predictions and their rho, newest first
    rhos: list[float] = []
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        x0s, rhos = [x0, *x0s[: order - 1]], [s.rho, *rhos[: order - 1]]
        h, more = t.lam - s.lam, _excess(t.rho) - _excess(s.rho)
        x = noise_left(s, t) * exp(more) * x - t.alpha * expm1(more - h) * x0
        if not isinf(h):
            for weight, derivative in zip(_weights(s, t), _derivatives(x0s, rhos), strict=False):
                x = x + t.alpha * weight * derivative
        if t.sigma:
            x = x + t.sigma * sqrt(-expm1(2 * more)) * trace.noise()
    return x


def _excess(rho: float) -> float:
    """Return log(phi / rho)."""
    return float(np.logaddexp(rho**0.3, log(10)))


def _weights(s: Time, t: Time) -> tuple[float, float]:
    """Return the weights of x0' and x0''. The integrals are taken over log rho, in which phi / rho is smooth."""
    above, below = s.rho, t.rho
    points, shares = gauss_legendre(np.log([below, above]), NODES)
    rho = np.exp(points)
    shares = shares * below * np.exp(_excess(below) - np.logaddexp(rho**0.3, log(10)))  # phi_t rho / phi(rho)
    step = below - above
    return step + float(shares.sum()), step**2 / 2 + float(shares @ (rho - above))


def _derivatives(x0s: Sequence[Lin], rhos: Sequence[float]) -> list[Lin]:
    """Return x0' and x0'' in rho, by divided differences, as far as the number of predictions allows. A difference to
    pure noise, where rho is infinite, is zero."""
    slopes = [(x0s[i] - x0s[i + 1]) / (rhos[i] - rhos[i + 1]) for i in range(len(x0s) - 1)]
    return slopes[:1] + [2 * (slopes[0] - slopes[1]) / (rhos[0] - rhos[2]) for _ in slopes[1:]]
