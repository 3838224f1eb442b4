"""DPM-Solver (Lu, Zhou, Bao, Chen, Li, Zhu 2022, arXiv 2206.00927): singlestep, on the predicted noise.

Steps from pure noise (alpha = 0) or to the clean end (sigma = 0) are infinitely long in lambda, so have no point
between; they are first order, with one evaluation. Where a step starts near pure noise these solvers multiply a
difference of two predicted noises by sigma_s / alpha_s: on the cosine schedule (lambda = -9.9 at its start) that makes
them poor with few steps, and float32 keeps three digits where it keeps six elsewhere.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf

from fewstep.plans.published import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers import ancestral
from fewstep.plans.solvers.exponential import first_order, phi, predicted_noise
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Lu et al. 2022, arXiv 2206.00927"


@Published(PAPER, order=2, rows=2)
def dpm_2(trace: Tracer, times: Sequence[Time], *, eta: float = 0.0) -> Lin:
    """DPM-Solver-2 (Algorithm 1, r1 = 1/2), which is k-diffusion's DPM2.

    `eta` in [0, 1] makes it ancestral: the step goes further down and fresh noise leads back up, all of DDPM's at 1.
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
        x_u, x0_u = trace.denoise(first_order(x, x0, s, u), u)
        x = low.alpha / s.alpha * x - low.sigma * expm1(h) * predicted_noise(x_u, x0_u, u)
        x = ancestral.up(trace, x, low, t)
    return x


@Published(PAPER, order=3, rows=3)
def dpm_3(trace: Tracer, times: Sequence[Time]) -> Lin:
    """DPM-Solver-3 (Algorithm 2, r1 = 1/3, r2 = 2/3)."""
    r1, r2 = 1 / 3, 2 / 3
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        h = t.lam - s.lam
        if isinf(h):
            x = first_order(x, x0, s, t)
            continue
        u1, u2 = trace.schedule.at_lam(s.lam + r1 * h), trace.schedule.at_lam(s.lam + r2 * h)
        eps = predicted_noise(x, x0, s)
        curve_u2 = u2.sigma * r2 / r1 * (r2 * h * phi(2, r2 * h))  # z phi_2(z) = (e^z - 1) / z - 1
        curve_t = t.sigma / r2 * (h * phi(2, h))
        towards_u2 = trace.store(first_order(x, x0, s, u2) + curve_u2 * eps)
        towards_t = trace.store(first_order(x, x0, s, t) + curve_t * eps)
        x, x0 = trace.denoise(first_order(x, x0, s, u1), u1)
        x, x0 = trace.denoise(towards_u2 - curve_u2 * predicted_noise(x, x0, u1), u2)
        x = towards_t - curve_t * predicted_noise(x, x0, u2)
    return x
