"""DPM-Solver-v3 (Zheng, Lu, Chen, Zhu 2023, arXiv 2310.13268): a multistep solver that uses empirical model statistics.

With statistics l, s, b as functions of lambda, each with the shape of a sample, the predicted noise along a trajectory
is

    sigma eps = l x + alpha f,    df / d lambda close to s f + b.

Only f is left to be approximated, and the statistics are chosen so that it changes as little as possible. l = 1, s = b
= 0 gives f = -x0, which is DPM-Solver++. For Gaussian data f is known, and steps of any length are exact. `fits/ems.py`
estimates the statistics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil, isinf, prod

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order
from fewstep.plans.solvers.multistep import gauss_legendre, lagrange
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

Array = NDArray[np.float64]
Basis = Callable[[Sequence[float], Array], Array]  # (nodes, points) -> the weight of each node's value at the points
WINDOW = 6  # points of the polynomials that integrate and interpolate tables


@dataclass(frozen=True, eq=False)
class Ems:
    """Statistics over lambda. `lams` [n] increases; each line of `l`, `s` and `b` [n, ...] broadcasts to a sample. n is
    at least 6, and should be 100 or more for accuracy."""

    lams: Array
    l: Array  # noqa: E741 (the paper's name)
    s: Array
    b: Array

    def __post_init__(self) -> None:
        tables = (self.l, self.s, self.b)
        if (
            len(self.lams) < WINDOW
            or not np.all(np.diff(self.lams) > 0)
            or any(len(t) != len(self.lams) for t in tables)
        ):
            raise UserError(
                f"statistics over {len(self.lams)} lambdas with tables of {[len(t) for t in tables]}",
                f"give {WINDOW} or more increasing lambdas, and one row of each table per lambda",
            )

    @cached_property
    def L(self) -> Array:
        """The integral of l from the first lambda."""
        return integrate(self.l, self.lams)

    @cached_property
    def S(self) -> Array:
        """The integral of s from the first lambda."""
        return integrate(self.s, self.lams)

    @cached_property
    def B(self) -> Array:
        """The integral of exp(-S) b over lambda, from the first lambda to each."""
        return integrate(np.exp(-self.S) * self.b, self.lams)

    def interpolate(self, lams: Array, *tables: Array) -> list[Array]:
        """Interpolate tables over lambda at `lams` [P]. The result for each table is [P, ...]. Raises UserError for a
        lambda beyond the statistics."""
        slack = 1e-9 * (1 + np.abs(lams))
        outside = (lams < self.lams[0] - slack) | (lams > self.lams[-1] + slack)
        if outside.any():
            raise UserError(
                f"lambda {lams[outside][0]:.4g} is outside the statistics' {self.lams[0]:.4g} .. {self.lams[-1]:.4g}",
                "estimate them over the whole range of the plan",
            )
        starts = [_window(self.lams, after).start for after in np.searchsorted(self.lams, lams)]
        nodes = self.lams[np.array(starts)[:, None] + np.arange(WINDOW)]
        gaps = nodes[:, :, None] - nodes[:, None, :] + np.eye(WINDOW)
        away = np.where(np.eye(WINDOW, dtype=bool), 1.0, (lams[:, None] - nodes)[:, None, :])
        weights = np.prod(away / gaps, axis=2)  # Lagrange polynomials at each of lams
        made = []
        for table in tables:
            flat = table.reshape(len(table), -1)
            lines = np.array([weight @ flat[a : a + WINDOW] for weight, a in zip(weights, starts, strict=True)])
            made.append(lines.reshape(len(lams), *table.shape[1:]))
        return made


def integrate(table: Array, lams: Array) -> Array:
    """Return the integral of a table from its first lambda to each lambda. Each interval is integrated by the
    polynomial through the points around it."""
    gauss, weights = np.polynomial.legendre.leggauss(WINDOW // 2)
    steps = [np.zeros_like(table[0])]
    for i, (low, high) in enumerate(zip(lams, lams[1:])):
        window = _window(lams, i + 1)
        points = low + (high - low) * (gauss + 1) / 2
        share = lagrange(list(lams[window]), points) @ weights * (high - low) / 2
        steps.append(np.tensordot(share, table[window], 1))
    return np.cumsum(steps, axis=0)


def _window(lams: Array, after: int) -> slice:
    """Return the slice of `WINDOW` points around the interval that ends at point `after`."""
    start = int(min(max(after - WINDOW // 2, 0), len(lams) - WINDOW))
    return slice(start, start + WINDOW)


def dpm_v3(ems: Ems, order: int = 3, corrector: bool = True) -> Callable[[Tracer, Sequence[Time]], Lin]:
    """Return the solver for these statistics. Its plans contain tensors. It evaluates the network once per step and has
    `order` rows, or one more with the corrector.

    The solver has order 2, or `order` without the corrector, and is exact in one step for Gaussian data. A step to the
    clean end or from pure noise is infinitely long in lambda, so it has order 1 on x0. The order increases in the first
    steps and, if the grid ends at the clean end, decreases in the last ones.

    Args:
        ems: statistics over all finite lambdas of the plan.
        order: the number of values of f in the predictor's polynomial, 1 to 3.
        corrector: repeat each step with the value at its end. The corrector uses one value more than the predictor, and
            plain divided differences as derivatives. According to the authors this is better in most cases; it was on
            the shipped model with 5 and 8 steps.
    """
    if not 1 <= order <= 3:
        raise UserError(f"dpm_v3 has no order {order}", "choose 1, 2 or 3")

    def solver(trace: Tracer, times: Sequence[Time]) -> Lin:
        x, x0 = trace.denoise(trace.start(), times[0])
        known: list[tuple[float, Lin]] = []  # pairs of lambda and f of evaluations, newest first
        steps, ends_clean = len(times) - 1, times[-1].sigma == 0
        for i, (s, t) in enumerate(pairwise(times)):
            is_last = i == steps - 1
            if isinf(t.lam - s.lam):
                x = first_order(x, x0, s, t)
                if not is_last:
                    x, x0 = trace.denoise(x, t)
                    known = [(t.lam, _f(trace, ems, x, x0, t))]
                continue
            if not known:
                known = [(s.lam, _f(trace, ems, x, x0, s))]
            p = min(order, len(known), steps - i if ends_clean else order)
            lams, values = zip(*known[:p])
            curves = (lams, lagrange), ((s.lam, t.lam, *lams[1:]), divided_differences)
            predictor, redone = _integrals(ems, s, t, *curves)
            predicted = predictor.apply(trace, x, values)
            if is_last:
                return predicted
            if corrector:
                corrected = trace.store(redone.apply(trace, x, (values[0], Lin({}), *values[1:])))  # all but f at t
                predicted = trace.store(predicted)
                x, x0 = trace.denoise(predicted, t)
                f = _f(trace, ems, x, x0, t)  # evaluated at the uncorrected x
                x = corrected + redone.weights[1] * f + (x - predicted)  # as CFG++ moved the predicted x
            else:
                x, x0 = trace.denoise(predicted, t)
                f = _f(trace, ems, x, x0, t)
            known = [(t.lam, f), *known][:order]
        return x

    return solver


@dataclass(frozen=True, eq=False)
class _Integrals:
    """The coefficients of x_t = factor x_s + sum_j weights_j f_j + constant. Each is a number or has the shape of a
    sample."""

    factor: Array
    weights: Sequence[Array]
    constant: Array

    def apply(self, trace: Tracer, x: Lin, values: Sequence[Lin]) -> Lin:
        made: Lin = self.factor * x + self.constant * trace.ones()
        for weight, value in zip(self.weights, values, strict=True):
            made = made + weight * value
        return made


def _f(trace: Tracer, ems: Ems, x: Lin, x0: Lin, s: Time) -> Lin:
    """Store and return f = (sigma eps - l x) / alpha at the time s, with l interpolated from `ems`."""
    (l,) = ems.interpolate(np.array([s.lam]), ems.l)  # noqa: E741 (the paper's name)
    return trace.store((1 - l[0]) / s.alpha * x - x0)


def _integrals(ems: Ems, s: Time, t: Time, *curves: tuple[Sequence[float], Basis]) -> list[_Integrals]:
    """Return the exact solution of the step for each curve g, which is given by its nodes and its basis:

        x_t = alpha_t / alpha_s E(s) x_s - alpha_t int E(lambda) (g(lambda) + B(lambda) - B(s)) d lambda

    with E(lambda) = e^(L(lambda) - L(t) + S(lambda)) and g = e^-S f - (B - B(s)), which is constant as far as s and b
    describe f. (E(s) does not contain S.)
    """
    edges = np.linspace(s.lam, t.lam, ceil(2 * (t.lam - s.lam)) + 1)  # statistics change on a scale of about 1
    points, masses = gauss_legendre(edges, 8)
    P = len(points)
    L, S, B = ems.interpolate(
        np.concatenate([points, [s.lam, t.lam], *(nodes for nodes, _ in curves)]), ems.L, ems.S, ems.B
    )
    (L_s, L_t), B_s = L[P : P + 2], B[P]
    E = np.exp(L[:P] - L_t + S[:P])
    drift = -t.alpha * np.tensordot(masses, E * (B[:P] - B_s), 1)
    made, place = [], P + 2
    for nodes, basis in curves:
        weights, added = [], drift
        for line in basis(nodes, points) * masses:
            share = -t.alpha * np.tensordot(line, E, 1)
            weights.append(share * np.exp(-S[place]))
            added = added - share * (B[place] - B_s)
            place += 1
        made.append(_Integrals(t.alpha / s.alpha * np.exp(L_s - L_t), weights, added))
    return made


def divided_differences(nodes: Sequence[float], points: Array) -> Array:
    """Return the weight of each node's value g_j in the curve sum_n [g_0 .. g_n] (q - q_0)^n. This is the Taylor series
    around the first node, with divided differences as derivatives, called "pseudo-order" in the paper."""
    lines = np.zeros((len(nodes), len(points)))
    for n in range(len(nodes)):
        for j, node in enumerate(nodes[: n + 1]):
            others = [other for k, other in enumerate(nodes[: n + 1]) if k != j]
            lines[j] += (points - nodes[0]) ** n / prod(node - other for other in others)
    return lines
