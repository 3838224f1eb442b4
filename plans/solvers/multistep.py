"""Exponential Adams-Bashforth methods: the predicted noise as a polynomial through its last values, integrated exactly.

The probability-flow ODE is d(x / alpha) / d rho = eps with rho = sigma / alpha, hence

    x_t = alpha_t / alpha_s x_s + sum_j c_j eps_j,    c_j = alpha_t int_{rho_s}^{rho_t} l_j(q) d rho

with Lagrange polynomials l_j through the times of the last evaluations. Methods differ only in the variable q of these
polynomials, which `lms.py` and `deis.py` choose.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import isfinite

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Variable:
    """The variable q in which an Adams-Bashforth method interpolates the predicted noise by a polynomial.

    of: the value of q at a time.
    quadrature: nodes q and weights w for one step, such that alpha_t int f(q) d rho = sum w f(q) for polynomials f up
        to the degree of the method.
    reaches_clean: whether `quadrature` is finite up to rho = 0.
    """

    of: Callable[[Time], float]
    quadrature: Callable[[NoiseSchedule, Time, Time], tuple[Array, Array]]
    reaches_clean: bool = False


def adams_bashforth(
    trace: Tracer, times: Sequence[Time], order: int, variable: Variable, lower_order_final: bool = False
) -> Lin:
    """Run the Adams-Bashforth method in `variable` with up to `order` past values of the predicted noise, which need
    `order` state rows.

    `lower_order_final` reduces their number to 1 in the last steps. A step from pure noise (alpha = 0, where rho is
    infinite) has first order, and so has a step to the clean end unless the variable reaches it. No polynomial goes
    through a time where q is infinite.
    """
    x = trace.start()
    history: list[tuple[float, Lin]] = []  # q and predicted noise, newest first
    for i, (s, t) in enumerate(pairwise(times)):
        x, x0 = trace.denoise(x, s)
        eps = trace.store(noise_prediction(x, x0, s))
        if isfinite(variable.of(s)):
            history = [(variable.of(s), eps), *history[: order - 1]]
        if s.alpha == 0 or (t.sigma == 0 and not variable.reaches_clean):
            x = first_order(x, x0, s, t)
            continue
        x = t.alpha / s.alpha * x
        points, masses = variable.quadrature(trace.schedule, s, t)
        past = history[: len(times) - 1 - i if lower_order_final else order]
        for weight, (_, eps) in zip(lagrange([q for q, _ in past], points) @ masses, past):
            x = x + weight * eps
    return x


def lagrange(nodes: Sequence[float], points: Array) -> Array:
    """Return the Lagrange basis polynomials evaluated at `points`, one line per node: l_j is 1 at node j and 0 at the
    other nodes."""
    lines = np.ones((len(nodes), len(points)))
    with np.errstate(divide="ignore", invalid="ignore"):  # the tracer refuses a weight that is not finite
        for j, node in enumerate(nodes):
            for other in (*nodes[:j], *nodes[j + 1 :]):
                lines[j] *= (points - other) / (node - other)
    return lines


def gauss_legendre(edges: Array, count: int) -> tuple[Array, Array]:
    """Return nodes and weights that integrate from the first edge to the last, with `count` nodes between adjacent
    edges."""
    points, weights = _legendre(count)
    widths = np.diff(edges)[:, None]
    return (edges[:-1, None] + widths * points).ravel(), (widths * weights).ravel()


@cache
def _legendre(count: int) -> tuple[Array, Array]:
    """Return `count` Gauss-Legendre nodes and weights on [0, 1]."""
    points, weights = np.polynomial.legendre.leggauss(count)
    return (points + 1) / 2, weights / 2
