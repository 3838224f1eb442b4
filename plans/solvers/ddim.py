"""DDIM (Song, Meng, Ermon 2021, arXiv 2010.02502), forwards and backwards, and DDPM (Ho, Jain, Abbeel 2020, arXiv
2006.11239)."""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, expm1, sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import noise_left, noise_prediction, transfer
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

DDIM = "Song, Meng, Ermon 2021, arXiv 2010.02502"


@Published(DDIM, order=1, rows=1)
def ddim(trace: Tracer, times: Sequence[Time], *, eta: float = 0.0) -> Lin:
    """DDIM, which is exact for constant x0: equation 12 with x0 instead of epsilon.

    `eta` in [0, 1] scales the noise from none (DDIM) to DDPM's. DPM-Solver-1, DPM-Solver++(1), Euler steps in
    sigma / alpha (for a flow, in sigma), and Euler ancestral with the same `eta` give the same table.
    """
    check_share("eta", eta)
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        h = t.lam - s.lam
        # equation 16: fresh noise of variance eta^2 sigma_t^2 (1 - e^-2h); the rest of sigma_t^2 stays along the
        # predicted noise (x - alpha_s x0) / sigma_s
        noise = eta * t.sigma * sqrt(-expm1(-2 * h))
        kept = noise_left(s, t) * sqrt(1 + eta**2 * expm1(-2 * h))
        x = kept * x + (t.alpha - kept * s.alpha) * x0
        if noise:
            x = x + noise * trace.noise()
    return x


@Published("Ho, Jain, Abbeel 2020, arXiv 2006.11239", order=1, rows=1)
def ddpm(trace: Tracer, times: Sequence[Time], *, large_variance: bool = False) -> Lin:
    """Ancestral sampling.

    With the small variance (of the posterior for known x0) it is DDIM with eta 1. Euler ancestral and
    SDE-DPM-Solver++(1) give the same table. `large_variance` is the other choice of section 3.2, which is exact for
    normally distributed data: the variance that the forward process adds from t to s, sigma_s^2 (1 - e^-2h). The step
    to the clean end adds no noise.
    """
    x = trace.start()
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        x = posterior_mean(x, x0, s, t)
        if t.sigma > 0:
            x = x + (s.sigma if large_variance else t.sigma) * sqrt(-expm1(-2 * (t.lam - s.lam))) * trace.noise()
    return x


def posterior_mean(x: Lin, x0: Lin, s: Time, t: Time) -> Lin:
    """Return the mean of q(x_t | x_s, x0), equation 7 of DDPM. Its variance is sigma_t^2 (1 - e^-2h)."""
    kept = noise_left(s, t) * exp(s.lam - t.lam)
    return kept * x + (t.alpha - kept * s.alpha) * x0


@Published(DDIM, order=1, rows=1)
def ddim_inverse(trace: Tracer, times: Sequence[Time]) -> Lin:
    """Return the noise at the first time for a given "x" at the last time.

    It inverts `ddim` only in the limit of small steps. DDIM predicts the noise from x at the noisier end of a step,
    which is not known yet. So the denoiser gets the time of that end and x of the cleaner end, as in published code. A
    step to pure noise keeps x0 fixed, as predicted at the cleaner end. `bdia_inverse` and `edict_inverse` are exact.

    Args:
        times: as for `ddim`, from noisy to clean.
    """
    if len(times) == 2 and times[0].alpha == 0:
        raise UserError("ddim_inverse cannot go from clean to pure noise in one step", "use 2 steps or more")
    x = trace.given("x")
    for s, t in pairwise(times[::-1]):
        if t.alpha == 0:
            x, x0 = trace.denoise(x, s)
            x = ddim_step(x, x0, s, t)
        else:
            x, x0 = trace.denoise(x, t)
            x = transfer(x, noise_prediction(x, x0, t), s, t)
    return x


def ddim_step(x: Lin, x0: Lin, s: Time, t: Time) -> Lin:
    """Return a DDIM step from s to t. Either may be the noisier one."""
    kept = noise_left(s, t)
    return kept * x + (t.alpha - kept * s.alpha) * x0
