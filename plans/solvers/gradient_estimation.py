"""Gradient estimation (Permenter & Yuan 2023, arXiv 2306.04848): Euler in sigma / alpha on an extrapolated noise.

The paper interprets the predicted noise as a gradient of the distance to the data, and its change as the error of the
last step. Forks of k-diffusion call this sampler `gradient_estimation`.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import isinf

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction, transfer
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Permenter & Yuan 2023, arXiv 2306.04848", order=1, rows=2)
def gradient_estimation(trace: Tracer, times: Sequence[Time], *, gamma: float = 2.0) -> Lin:
    """y <- y + (rho_t - rho_s) (gamma eps_s + (1 - gamma) eps_before), with y = x / alpha and rho = sigma / alpha.

    The first step is `ddim`, as are steps from pure noise and to the clean end.

    Args: gamma: weight of the newest noise. 1 is `ddim`. 1.5 is second-order Adams-Bashforth with the weights of equal
        steps. 2, the default of published code, has first order: its leading error is the negative of `ddim`'s.
    """
    x, before = trace.start(), None
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        noise = trace.store(noise_prediction(x, x0, s))
        if before is None or isinf(t.lam - s.lam):
            x = first_order(x, x0, s, t)
        else:
            estimate = gamma * noise + (1 - gamma) * before
            x = transfer(x, estimate, s, t)
        before = noise
    return x
