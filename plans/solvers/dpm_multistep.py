"""Multistep DPM-Solver and DPM-Solver++: derivatives of the prediction from its last values.

DPM-Solver (Lu et al. 2022, arXiv 2206.00927) integrates the predicted noise, DPM-Solver++ (Lu et al. 2022, arXiv
2211.01095) x0. Both have variants for the SDE. The first steps have first, second, ... order. Steps from pure noise and
to the clean end, where lambda is infinite, have first order. The order of an SDE variant is the order of the sample's
mean and variance.

Two parameters are common. In second-order steps, `midpoint` uses the slope's weight for small h, (e^z - 1) / 2, as the
papers do; otherwise the weight is the exact z phi_2(z) ("heun" in published code). `lower_order_final` lowers the order
to 1 in the last steps, which stabilizes samplers of few steps whose grid does not end clean.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.dpmpp_2m import DPMPP
from fewstep.plans.solvers.exponential import DataPrediction, Form, NoisePrediction, phi
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

DPM = "Lu et al. 2022, arXiv 2206.00927"


@Published(DPM, order=2, rows=2)
def dpm_2m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """DPM-Solver-2 as a multistep method on the noise."""
    return _multistep(trace, times, 2, NoisePrediction(), midpoint, lower_order_final)


@Published(DPM, order=2, rows=3)
def dpm_3m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """DPM-Solver-3 as a multistep method on the noise, as in published code: order 2 (see `dpmpp_3m`)."""
    return _multistep(trace, times, 3, NoisePrediction(), midpoint, lower_order_final)


@Published(DPMPP, order=1, rows=1)
def dpm_1_sde(trace: Tracer, times: Sequence[Time]) -> Lin:
    """SDE-DPM-Solver-1, on the noise.

    Unlike `ddpm` it is not exact for constant x0, because it treats the predicted noise as constant during a step. On
    the SDE it is not constant.
    """
    return _multistep(trace, times, 1, NoisePrediction(is_stochastic=True))


@Published(DPMPP, order=2, rows=2)
def dpm_2m_sde(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """SDE-DPM-Solver-2M, on the noise."""
    return _multistep(trace, times, 2, NoisePrediction(is_stochastic=True), midpoint, lower_order_final)


@Published(DPMPP, order=2, rows=2)
def dpmpp_2m_sde(
    trace: Tracer,
    times: Sequence[Time],
    *,
    eta: float = 1.0,
    midpoint: bool = True,
    lower_order_final: bool = False,
) -> Lin:
    """SDE-DPM-Solver++(2M). Its first step is `ddpm`.

    `eta` in [0, 1] scales the noise. 0 is the ODE.
    """
    return _multistep(trace, times, 2, DataPrediction(eta), midpoint, lower_order_final)


@Published(DPMPP, order=2, rows=3)
def dpmpp_3m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """Third-order multistep as in published code.

    Its second difference lacks a factor of two, so its order is 2; `dpmpp_3m_exact` has the factor. With few steps the
    smaller difference has a damping effect, so neither is always better.
    """
    return _multistep(trace, times, 3, DataPrediction(), midpoint, lower_order_final)


@Published(DPMPP, order=3, rows=3)
def dpmpp_3m_exact(trace: Tracer, times: Sequence[Time], *, lower_order_final: bool = False) -> Lin:
    """Third-order multistep, exact for x0 that is quadratic in lambda."""
    return _multistep(trace, times, 3, DataPrediction(), False, lower_order_final, kappa=2.0)


@Published(DPMPP, order=2, rows=3)
def dpmpp_3m_sde(
    trace: Tracer,
    times: Sequence[Time],
    *,
    eta: float = 1.0,
    midpoint: bool = False,
    lower_order_final: bool = False,
    diffusers_sign: bool = False,
) -> Lin:
    """SDE-DPM-Solver++(3M) (k-diffusion), with the second difference of `dpmpp_3m` and therefore order 2. `eta` in
    [0, 1] scales the noise. 0 is the ODE.

    `diffusers_sign` repeats a sign error of diffusers, which subtracts alpha_t from the weight of the second difference
    and reduces the order to 1. Use it only to reproduce diffusers' samples.
    """
    return _multistep(trace, times, 3, DataPrediction(eta), midpoint, lower_order_final, off=float(diffusers_sign))


def _multistep(
    trace: Tracer,
    times: Sequence[Time],
    order: int,
    form: Form,
    midpoint: bool = True,
    lower_order_final: bool = False,
    kappa: float = 1.0,
    off: float = 0.0,
) -> Lin:
    """Steps with the prediction expanded around s in r = (lambda - lambda_s) / h, with D1 and D2 from divided
    differences.

    `kappa` multiplies D2: 2 makes it the second derivative, and published code has 1. `off` is added to its weight. A
    step of infinite h in the history (from pure noise) has the difference zero, which lowers the order by one.
    """
    x = trace.start()
    m: list[Lin] = []  # predictions and steps so far, newest first
    hs: list[float] = []
    for i, (s, t) in enumerate(pairwise(times)):
        x, x0 = trace.denoise(x, s)
        m = [form.prediction(trace, x, x0, s), *m[: order - 1]]
        h = t.lam - s.lam
        x = form.first_order(trace, x, x0, m[0], s, t)
        p = 1 if isinf(h) else min(len(m), len(times) - 1 - i if lower_order_final else order)
        scale, z = form.curve(s, t)
        if p == 2:
            D1 = h / hs[0] * (m[0] - m[1])
            x = x + scale * (expm1(z) / 2 if midpoint else z * phi(2, z)) * D1
        elif p == 3:
            r0, r1 = hs[0] / h, hs[1] / h
            D1_0, D1_1 = (m[0] - m[1]) / r0, (m[1] - m[2]) / r1
            D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1)
            D2 = kappa / (r0 + r1) * (D1_0 - D1_1)
            x = x + scale * (z * phi(2, z) * D1 + (z * phi(3, z) + off) * D2)
        hs = [h, *hs[:1]]
    return x
