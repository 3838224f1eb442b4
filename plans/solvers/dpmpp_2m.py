"""DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, Algorithm 2): second order with one evaluation per step.

The sample is x = alpha x0 + sigma noise, and time is measured by lambda = log(alpha / sigma). Between s and t, with
h = lambda_t - lambda_s, the probability-flow ODE has the exact solution (equation 8)

    x_t = sigma_t / sigma_s x_s + sigma_t int_{lambda_s}^{lambda_t} e^lambda x0(lambda) d lambda.

The method takes x0(lambda) as a line through the last two predictions. Other multistep solvers are in
`dpm_multistep.py`, which computes the same steps for any order, with noise, and on the predicted noise.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isfinite

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import noise_left, phi
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

DPMPP = "Lu et al. 2022, arXiv 2211.01095"


@Published(DPMPP, order=2, rows=2)
def dpmpp_2m(trace: Tracer, times: Sequence[Time], *, midpoint: bool = True, lower_order_final: bool = False) -> Lin:
    """DPM-Solver++(2M) (Algorithm 2).

    `midpoint` weights the slope as for small h, like the paper; otherwise its integral is exact. With
    `lower_order_final` the last step ignores the slope.
    """
    x = trace.start()  # sigma of the first time, times noise
    last: tuple[Lin, float] | None = None  # x0 and h of the last step
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)  # one evaluation; x0 is predicted from x, after guidance
        h = t.lam - s.lam
        # x0 is constant: sigma_t / sigma_s x_s - alpha_t (e^-h - 1) x0
        x = noise_left(s, t) * x - t.alpha * expm1(-h) * x0
        if last is not None and isfinite(h) and not (lower_order_final and t is times[-1]):
            # x0 is a line through the last two predictions; slope is its change over this step
            last_x0, last_h = last
            slope = h / last_h * (x0 - last_x0)
            weight = expm1(-h) / 2 if midpoint else -h * phi(2, -h)
            x = x - t.alpha * weight * slope
        last = x0, h  # from pure noise h is infinite, and the slope of the next step is 0
    return x
