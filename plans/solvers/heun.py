"""Heun's method on the probability-flow ODE (Karras, Aittala, Aila, Laine 2022, arXiv 2206.00364, Algorithm 1)."""

from collections.abc import Sequence
from itertools import pairwise

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Karras et al. 2022, arXiv 2206.00364", order=2, rows=2)
def heun(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Heun's method, with two evaluations per step and one in the step to the clean end.

    Algorithm 1 does not prescribe the ODE's time. Here it is tau = sigma / (alpha + sigma) with z = x / (alpha +
    sigma), the straight-path coordinates of the process, in which dz/dtau = eps - x0. They are finite at pure noise.
    The usual choice, sigma / alpha, is infinite at the start of a flow and 20 000 at the start of a cosine schedule.
    """
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        scale_s, scale_t = s.alpha + s.sigma, t.alpha + t.sigma
        delta = t.sigma / scale_t - s.sigma / scale_s
        z = x / scale_s
        slope = (x - s.alpha * x0) / s.sigma - x0
        if t.sigma == 0:
            return scale_t * (z + delta * slope)
        half = trace.store(z + delta / 2 * slope)
        x, x0 = trace.denoise(scale_t * (z + delta * slope), t)
        x = scale_t * (half + delta / 2 * ((x - t.alpha * x0) / t.sigma - x0))
    return x
