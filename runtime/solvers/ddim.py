"""DDIM (Song, Meng, Ermon 2021, arXiv 2010.02502)."""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, sqrt

from fewstep.runtime.lin import Lin
from fewstep.runtime.schedule import Time
from fewstep.runtime.trace import Tracer


def ddim(sampler: Tracer, times: Sequence[Time], eta: float = 0.0) -> Lin:
    """First order, exact where x0 does not change; equation 12 with x0 in place of epsilon. One evaluation a step, one
    row.

    `eta` in [0, 1] scales the noise from none (DDIM) to DDPM's. DPM-Solver-1, DPM-Solver++(1) and Euler steps in
    sigma / alpha (of a flow: in sigma) are this table; so is Euler ancestral with the same `eta`.
    """
    x = sampler.start()
    for s, t in pairwise(times):
        x, x0 = sampler.denoise(x, s)
        h = t.lam - s.lam
        # equation 16: fresh noise of variance eta^2 sigma_t^2 (1 - e^-2h); the rest of sigma_t^2 stays along the
        # predicted noise (x - alpha_s x0) / sigma_s
        noise = eta * t.sigma * sqrt(-expm1(-2 * h))
        kept = t.sigma / s.sigma * sqrt(1 + eta**2 * expm1(-2 * h))
        x = kept * x + (t.alpha - kept * s.alpha) * x0
        if noise:
            x = x + noise * sampler.noise()
    return x


def ddpm(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """Ancestral sampling (Ho, Jain, Abbeel 2020, arXiv 2006.11239), the small variance: DDIM with eta 1. First order,
    one evaluation a step, one row. Euler ancestral and SDE-DPM-Solver++(1) are this table."""
    return ddim(sampler, times, eta=1.0)
