"""Multistep DPM-Solver and DPM-Solver++: derivatives of the prediction from its last values.

DPM-Solver (Lu et al. 2022, arXiv 2206.00927) predicts the noise, DPM-Solver++ (Lu et al. 2022, arXiv 2211.01095) x0;
both have forms for the SDE. The first steps are of first, second, ... order; steps from pure noise and to the clean
end, where lambda is infinite, are first order. The order of a form for the SDE is the order of the sample's mean and
variance.

Two parameters are common. `midpoint` takes the slope's weight for small h, (e^z - 1) / 2, in second-order steps as the
papers do, else the exact z phi_2(z) ("heun" in published code). `lower_order_final` lets the order fall to 1 in the
last steps, which steadies samplers of few steps whose grid does not end clean.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isinf

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import DataPrediction, Form, NoisePrediction, phi
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

DPM = "Lu et al. 2022, arXiv 2206.00927"
DPMPP = "Lu et al. 2022, arXiv 2211.01095"


@Published(DPM, order=2, rows=2)
def dpm_2m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """DPM-Solver-2 as a multistep method on the noise."""
    return _multistep(trace, times, 2, NoisePrediction(), midpoint, lower_order_final)


@Published(DPM, order=2, rows=3)
def dpm_3m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """DPM-Solver-3 as a multistep method on the noise, as published code has it: order 2 (see `dpmpp_3m`)."""
    return _multistep(trace, times, 3, NoisePrediction(), midpoint, lower_order_final)


@Published(DPMPP, order=1, rows=1)
def dpm_1_sde(trace: Tracer, times: Sequence[Time]) -> Lin:
    """SDE-DPM-Solver-1, on the noise.

    Where x0 does not change it is not exact, as `ddpm` is: the noise it holds is the wrong thing to hold in an SDE.
    """
    return _multistep(trace, times, 1, NoisePrediction(is_stochastic=True))


@Published(DPMPP, order=2, rows=2)
def dpm_2m_sde(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """SDE-DPM-Solver-2M, on the noise."""
    return _multistep(trace, times, 2, NoisePrediction(is_stochastic=True), midpoint, lower_order_final)


@Published(DPMPP, order=2, rows=2)
def dpmpp_2m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """DPM-Solver++(2M) (Algorithm 2)."""
    return _multistep(trace, times, 2, DataPrediction(), midpoint, lower_order_final)


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

    `eta` in [0, 1] scales the noise, down to the ODE.
    """
    return _multistep(trace, times, 2, DataPrediction(eta), midpoint, lower_order_final)


@Published(DPMPP, order=2, rows=3)
def dpmpp_3m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """Third-order multistep as published code has it.

    Its second difference lacks a factor of two, which leaves it at order 2; `dpmpp_3m_exact` has it. With few steps
    the smaller difference damps, so neither is always better.
    """
    return _multistep(trace, times, 3, DataPrediction(), midpoint, lower_order_final)


@Published(DPMPP, order=3, rows=3)
def dpmpp_3m_exact(trace: Tracer, times: Sequence[Time], *, lower_order_final: bool = False) -> Lin:
    """Third-order multistep, exact where x0 is quadratic in lambda."""
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
    """SDE-DPM-Solver++(3M) (k-diffusion), with `dpmpp_3m`'s second difference, hence of order 2. `eta` in [0, 1] scales
    the noise, down to the ODE.

    `diffusers_sign` repeats diffusers' sign error, which takes alpha_t from the weight of the second difference and
    leaves order 1: only to reproduce its samples.
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
    """The prediction expanded around s in r = (lambda - lambda_s) / h, with D1 and D2 from divided differences.

    `kappa` multiplies D2: 2 makes it the second derivative, published code has 1. `off` is added to its weight. A step
    of infinite h in the history (from pure noise) makes its difference zero, and so the order one lower.
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
