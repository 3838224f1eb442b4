"""Samplers for flows: rectified flows, and Euler with fresh noise. For flows, `ddim` is Euler's method."""

from collections.abc import Sequence
from itertools import pairwise
from math import log

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers import ancestral
from fewstep.plans.solvers.exponential import first_order, noise_prediction
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Lee, Lin, Fanti 2024, arXiv 2405.20320", order=None, rows=2, distilled=True)
def rfpp(trace: Tracer, times: Sequence[Time]) -> Lin:
    """2-rectified flow++: x_t = alpha_t x0 + sigma_t z with the noise z of the start, the authors' "new" sampler.

    z is the noise predicted at the start. From pure noise it is x itself. From a given image it is the noise that was
    added, if the trajectory is straight.

    It is for rectified flows, on whose straight trajectories x lies between x0 and z. It does not converge to curved
    trajectories, while `ddim` (rectified-flow Euler) does.
    """
    x = trace.start()
    z: Lin | None = None
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        z = trace.store(noise_prediction(x, x0, s)) if z is None else z
        x = t.alpha * x0 + t.sigma * z
    return x


@Published("ComfyUI", order=1, rows=1)
def flow_ancestral(trace: Tracer, times: Sequence[Time], *, eta: float = 1.0) -> Lin:
    """Euler ancestral for flows (ComfyUI): an Euler step to tau_t (1 + (tau_t / tau_s - 1) eta), then fresh noise up
    to t, where tau = sigma / (alpha + sigma) is a flow's sigma.

    `eta` in [0, 1] scales the noise. 0 is `ddim`. `ddim(eta=1)` determines the amount of noise from sigma / alpha
    instead.
    """
    check_share("eta", eta)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        low = t
        if eta and t.sigma > 0:
            tau_s, tau_t = s.sigma / (s.alpha + s.sigma), t.sigma / (t.alpha + t.sigma)
            tau = tau_t * (1 + (tau_t / tau_s - 1) * eta)
            low = trace.schedule.time_at_lam(log((1 - tau) / tau))
        x = ancestral.add_noise(trace, first_order(x, x0, s, low), low, t)
    return x
