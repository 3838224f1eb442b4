"""Singlestep DPM-Solver and DPM-Solver++, with evaluations between the times of the grid.

DPM-Solver (Lu, Zhou, Bao, Chen, Li, Zhu 2022, arXiv 2206.00927) integrates the predicted noise, DPM-Solver++ (the same
authors 2022, arXiv 2211.01095) x0. The stages are the same. `dpm_singlestep.py` has variants that evaluate at the
grid's times.

Steps from pure noise (alpha = 0) or to the clean end (sigma = 0) are infinitely long in lambda and have no midpoint.
They have first order, with one evaluation. In a step that starts near pure noise, DPM-Solver multiplies a difference of
two predicted noises by sigma_s / alpha_s. On the cosine schedule (lambda = -9.9 at its start) this makes it poor with
few steps, and leaves three correct digits in float32 instead of six.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf, sqrt

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers import ancestral
from fewstep.plans.solvers.exponential import DataPrediction, Form, NoisePrediction, first_order, phi
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

DPM = "Lu et al. 2022, arXiv 2206.00927"
DPMPP = "Lu et al. 2022, arXiv 2211.01095"


@Published(DPM, order=2, rows=2)
def dpm_2(trace: Tracer, times: Sequence[Time], *, eta: float = 0.0) -> Lin:
    """DPM-Solver-2 (Algorithm 1, r1 = 1/2), which is k-diffusion's DPM2.

    `eta` in [0, 1] makes it ancestral: the step goes to less noise, and fresh noise is added, as much as DDPM's at 1.
    """
    return _second_order(trace, times, NoisePrediction(), eta)


@Published(DPM, order=3, rows=3)
def dpm_3(trace: Tracer, times: Sequence[Time]) -> Lin:
    """DPM-Solver-3 (Algorithm 2, r1 = 1/3, r2 = 2/3)."""
    return _third_order(trace, times, NoisePrediction())


@Published(DPMPP, order=2, rows=2)
def dpmpp_2s(trace: Tracer, times: Sequence[Time], *, eta: float = 0.0) -> Lin:
    """DPM-Solver++(2S) (Algorithm 1, r = 1/2). `eta` in [0, 1] makes it ancestral like `dpm_2` (k-diffusion)."""
    return _second_order(trace, times, DataPrediction(), eta)


@Published(DPMPP, order=2, rows=2)
def dpmpp_sde(trace: Tracer, times: Sequence[Time], *, eta: float = 1.0) -> Lin:
    """DPM-Solver++ (stochastic) of k-diffusion: `dpmpp_2s` with noise at both evaluations.

    The noise at the midpoint is part of the step's noise, as if both came from one Brownian motion over rho. `eta` in
    [0, 1] scales it.
    """
    check_share("eta", eta)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        low = ancestral.ancestral_time(trace.schedule, s, t, eta)
        h = t.lam - s.lam
        if isinf(h):
            x = ancestral.add_noise(trace, first_order(x, x0, s, low), low, t)
            continue
        u = trace.schedule.time_at_lam(s.lam + h / 2)
        low_u = ancestral.ancestral_time(trace.schedule, s, u, eta)
        first, second = trace.noise(), trace.noise()
        _, x0_u = trace.denoise(ancestral.add_noise(trace, first_order(x, x0, s, low_u), low_u, u, first), u)
        share = -expm1(-h / 2) / -expm1(-h)  # (rho_s - rho_u) / (rho_s - rho_t)
        noise = sqrt(share) * first + sqrt(1 - share) * second
        x = ancestral.add_noise(trace, first_order(x, x0_u, s, low), low, t, noise)
    return x


@Published(DPMPP, order=3, rows=3)
def dpmpp_3s(trace: Tracer, times: Sequence[Time]) -> Lin:
    """The stages of DPM-Solver-3 applied to x0. The paper has orders 1 and 2 only; this follows the authors' code."""
    return _third_order(trace, times, DataPrediction())


def _second_order(trace: Tracer, times: Sequence[Time], form: Form, eta: float) -> Lin:
    """Midpoint steps: predict at the midpoint in lambda, then take the whole step with that prediction."""
    check_share("eta", eta)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        low = ancestral.ancestral_time(trace.schedule, s, t, eta)
        h = low.lam - s.lam
        if isinf(h):
            x = ancestral.add_noise(trace, first_order(x, x0, s, low), low, t)
            continue
        u = trace.schedule.time_at_lam(s.lam + h / 2)
        x_u, x0_u = trace.denoise(first_order(x, x0, s, u), u)
        x = ancestral.add_noise(trace, form.first_order(trace, x, x0_u, form.value(x_u, x0_u, u), s, low), low, t)
    return x


def _third_order(trace: Tracer, times: Sequence[Time], form: Form) -> Lin:
    """Steps whose slopes come from predictions at one third and two thirds of the step in lambda."""
    r1, r2 = 1 / 3, 2 / 3
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        h = t.lam - s.lam
        if isinf(h):
            x = first_order(x, x0, s, t)
            continue
        u1, u2 = trace.schedule.time_at_lam(s.lam + r1 * h), trace.schedule.time_at_lam(s.lam + r2 * h)
        (scale_u2, _), (scale_t, z) = form.curve(s, u2), form.curve(s, t)
        weight_u2 = scale_u2 * r2 / r1 * (r2 * z * phi(2, r2 * z))  # of the slope D1 over a share r1 of the step
        weight_t = scale_t / r2 * (z * phi(2, z))
        m = form.value(x, x0, s)
        towards_u2 = trace.store(first_order(x, x0, s, u2) - weight_u2 * m)
        towards_t = trace.store(first_order(x, x0, s, t) - weight_t * m)
        x, x0 = trace.denoise(first_order(x, x0, s, u1), u1)
        x, x0 = trace.denoise(towards_u2 + weight_u2 * form.value(x, x0, u1), u2)
        x = towards_t + weight_t * form.value(x, x0, u2)
    return x
