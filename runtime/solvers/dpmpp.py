"""DPM-Solver++ (Lu, Zhou, Bao, Chen, Li, Zhu 2022, arXiv 2211.01095): solvers on the predicted x0.

The step to the clean end is first order in all of them: lambda is infinite there, so x is the predicted x0.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import exp, expm1, isinf, sqrt

from fewstep.runtime.lin import Lin
from fewstep.runtime.schedule import Time
from fewstep.runtime.solvers.exponential import first_order, phi
from fewstep.runtime.trace import Tracer


def dpmpp_2s(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """Second-order singlestep (Algorithm 1, r = 1/2). Two evaluations a step, two rows.

    A step from pure noise, which is infinitely long in lambda, is first order too, with one evaluation.
    """
    x = sampler.start()
    for s, t in pairwise(times):
        x, x0 = sampler.denoise(x, s)
        h = t.lam - s.lam
        if isinf(h):
            x = first_order(x, x0, s, t)
            continue
        u = sampler.schedule.at_lam(s.lam + h / 2)
        _, x0_u = sampler.denoise(first_order(x, x0, s, u), u)
        x = first_order(x, x0_u, s, t)
    return x


def dpmpp_2m(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """Second-order multistep (Algorithm 2). One evaluation a step, two rows; order 2 on any grid. The first step is
    first order."""
    x, previous, h_previous = sampler.start(), None, 0.0
    for s, t in pairwise(times):
        x, x0 = sampler.denoise(x, s)
        h = t.lam - s.lam
        d = x0
        if previous is not None and not isinf(h):
            d = x0 + h / (2 * h_previous) * (x0 - previous)
        x = first_order(x, d, s, t)
        previous, h_previous = x0, h
    return x


def dpmpp_3m(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """Third-order multistep as published code has it. One evaluation a step, three rows.

    Its second difference lacks a factor of two, which leaves it at order 2; `dpmpp_3m_exact` has it. With few steps
    the smaller difference damps, so neither is always better. The first two steps are those of `dpmpp_2m`.
    """
    return _third_order_multistep(sampler, times, kappa=1.0, second_order=lambda h: -expm1(-h) / 2)


def dpmpp_3m_exact(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """Third-order multistep, exact where x0 is quadratic in lambda. Order 3, one evaluation a step, three rows.

    The first two steps are of first and second order.
    """
    return _third_order_multistep(sampler, times, kappa=2.0, second_order=lambda h: h * phi(2, -h))


def _third_order_multistep(
    sampler: Tracer, times: Sequence[Time], kappa: float, second_order: Callable[[float], float]
) -> Lin:
    """x0 expanded around s in r = (lambda - lambda_s) / h: D1 and D2 are its derivatives from divided differences.

    `second_order` is the weight of D1 in the second step. A step of infinite h in the history (from pure noise) makes
    its difference zero, and so the order one lower.
    """
    x = sampler.start()
    x0s: list[Lin] = []  # predictions and steps so far, newest first
    hs: list[float] = []
    for s, t in pairwise(times):
        x, x0 = sampler.denoise(x, s)
        x0s = [x0, *x0s[:2]]
        h = t.lam - s.lam
        x = first_order(x, x0, s, t)
        if isinf(h) or not hs:
            pass
        elif len(hs) == 1:
            x = x + t.alpha * second_order(h) * (h / hs[0]) * (x0s[0] - x0s[1])
        else:
            r0, r1 = hs[0] / h, hs[1] / h
            D1_0, D1_1 = (x0s[0] - x0s[1]) / r0, (x0s[1] - x0s[2]) / r1
            D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1)
            D2 = kappa / (r0 + r1) * (D1_0 - D1_1)
            x = x + t.alpha * h * (phi(2, -h) * D1 + phi(3, -h) * D2)
        hs = [h, *hs[:1]]
    return x


def dpmpp_2m_sde(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """SDE-DPM-Solver++(2M): second-order multistep on the diffusion SDE, midpoint form. One evaluation a step, two
    rows; order 2 in the sample's mean and variance. The first step is first order, which is `ddpm`.
    """
    x, previous, h_previous = sampler.start(), None, 0.0
    for s, t in pairwise(times):
        x, x0 = sampler.denoise(x, s)
        h = t.lam - s.lam
        w = -expm1(-2 * h)
        d = x0
        if previous is not None and not isinf(h):
            d = x0 + h / (2 * h_previous) * (x0 - previous)
        x = t.sigma / s.sigma * exp(-h) * x + t.alpha * w * d
        if t.sigma > 0:
            x = x + t.sigma * sqrt(w) * sampler.noise()
        previous, h_previous = x0, h
    return x
