"""Restoration by shifting the residual: ResShift (Yue, Wang, Loy 2023, arXiv 2307.12348). The Schroedinger bridge
(Jukic, Korostik, Balam, Ginsburg 2024, arXiv 2407.16074) takes the same step in its SDE sampler, and its ODE is `ddim`.

x_t = x0 + eta_t (y - x0) + noise, with y the degraded sample: a process that reverts to y, with alpha = 1 - eta.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.spec import DenoiserFacts, ScheduleSpec
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

MADE_FOR = DenoiserFacts(ScheduleSpec("residual-shift"), "sample", towards="y")


@Published("Yue, Wang, Loy 2023, arXiv 2307.12348", order=1, rows=2, made_for=MADE_FOR)
def resshift(trace: Tracer, times: Sequence[Time]) -> Lin:
    """The posterior's mean and noise: x_t = c x_s + (1 - c) x0 + noise with c = eta_t / eta_s. The rows are x and y. It
    is for as few steps as the denoiser was trained with.

    It is the member of DDIM's family (`ddim` with eta) that keeps the fraction c = (1 - alpha_t) / (1 - alpha_s) of x,
    for which y cancels. The rest of sigma_t^2 is fresh noise: kappa^2 eta_t (1 - c) in ResShift, and sigma_t^2 (1 - c)
    in the bridge.
    """
    x = trace.start()
    trace.reverts_to()  # raises UserError if the denoiser names no degraded sample
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        c = (1 - t.alpha) / (1 - s.alpha)
        fresh = t.sigma**2 - (c * s.sigma) ** 2
        if fresh < -1e-12 * t.sigma**2:
            raise UserError(
                f"resshift from {s.network:g} to {t.network:g} would need negative noise: sigma falls too fast",
                "use schedule residual-shift, or another solver",
            )
        x = c * x + (t.alpha - c * s.alpha) * x0
        if fresh > 0:
            x = x + sqrt(fresh) * trace.noise()
    return x
