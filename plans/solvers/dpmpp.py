"""DPM-Solver++ (Lu, Zhou, Bao, Chen, Li, Zhu 2022, arXiv 2211.01095): singlestep, on the predicted x0.

Steps from pure noise (alpha = 0) or to the clean end (sigma = 0) are infinitely long in lambda, so have no point
between; they are first order, with one evaluation.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf, sqrt

from fewstep.plans.published import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers import ancestral
from fewstep.plans.solvers.exponential import first_order, phi
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Lu et al. 2022, arXiv 2211.01095"


@Published(PAPER, order=2, rows=2)
def dpmpp_2s(trace: Tracer, times: Sequence[Time], *, eta: float = 0.0) -> Lin:
    """Second-order singlestep (Algorithm 1, r = 1/2).

    `eta` in [0, 1] makes it ancestral (k-diffusion): the step goes further down and fresh noise leads back up, all of
    DDPM's at 1.
    """
    check_share("eta", eta)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        low = ancestral.down(trace.schedule, s, t, eta)
        h = low.lam - s.lam
        if isinf(h):
            x = ancestral.up(trace, first_order(x, x0, s, low), low, t)
            continue
        u = trace.schedule.at_lam(s.lam + h / 2)
        _, x0_u = trace.denoise(first_order(x, x0, s, u), u)
        x = ancestral.up(trace, first_order(x, x0_u, s, low), low, t)
    return x


@Published(PAPER, order=2, rows=2)
def dpmpp_sde(trace: Tracer, times: Sequence[Time], *, eta: float = 1.0) -> Lin:
    """DPM-Solver++ (stochastic) of k-diffusion: `dpmpp_2s` with noise at both evaluations.

    The noise halfway is a part of the step's noise, as if both came from one Brownian motion over rho. `eta` in [0, 1]
    scales it.
    """
    check_share("eta", eta)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        low = ancestral.down(trace.schedule, s, t, eta)
        h = t.lam - s.lam
        if isinf(h):
            x = ancestral.up(trace, first_order(x, x0, s, low), low, t)
            continue
        u = trace.schedule.at_lam(s.lam + h / 2)
        low_u = ancestral.down(trace.schedule, s, u, eta)
        first, second = trace.noise(), trace.noise()
        _, x0_u = trace.denoise(ancestral.up(trace, first_order(x, x0, s, low_u), low_u, u, first), u)
        share = -expm1(-h / 2) / -expm1(-h)  # (rho_s - rho_u) / (rho_s - rho_t)
        noise = sqrt(share) * first + sqrt(1 - share) * second
        x = ancestral.up(trace, first_order(x, x0_u, s, low), low, t, noise)
    return x


@Published(PAPER, order=3, rows=3)
def dpmpp_3s(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Third-order singlestep: DPM-Solver-3's stages (r1 = 1/3, r2 = 2/3) on x0.

    The paper stops at order 2; this is the authors' code.
    """
    r1, r2 = 1 / 3, 2 / 3
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        h = t.lam - s.lam
        if isinf(h):
            x = first_order(x, x0, s, t)
            continue
        u1, u2 = trace.schedule.at_lam(s.lam + r1 * h), trace.schedule.at_lam(s.lam + r2 * h)
        curve_u2 = u2.alpha * r2 / r1 * (r2 * h * phi(2, -r2 * h))  # z phi_2(-z) = (e^-z - 1) / z + 1
        curve_t = t.alpha / r2 * (h * phi(2, -h))
        towards_u2 = trace.store(first_order(x, x0, s, u2) - curve_u2 * x0)
        towards_t = trace.store(first_order(x, x0, s, t) - curve_t * x0)
        _, x0 = trace.denoise(first_order(x, x0, s, u1), u1)
        _, x0 = trace.denoise(towards_u2 + curve_u2 * x0, u2)
        x = towards_t + curve_t * x0
    return x
