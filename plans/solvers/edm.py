"""EDM (Karras, Aittala, Aila, Laine 2022, arXiv 2206.00364): the ODE in sigma, with noise added before each step.

EDM's sigma is rho = sigma / alpha of any schedule, and its x is y = x / alpha. A step from pure noise (alpha = 0, where
rho is infinite) adds no noise and has first order. `heun.py` has Heun's method in a time that is finite there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log1p, sqrt

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction
from fewstep.plans.solvers.parameters import check_not_negative
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer

PAPER = "Karras et al. 2022, arXiv 2206.00364"


@Published(PAPER, order=1, rows=1)
def edm_euler(
    trace: Tracer,
    times: Sequence[Time],
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    s_noise: float = 1.0,
) -> Lin:
    """Algorithm 2 with Euler steps. Without churn it is `ddim`.

    Args:
        s_churn: before each of the N steps the noise level rises by the factor 1 + min(s_churn / N, sqrt(2) - 1).
        s_tmin, s_tmax: steps with rho outside [s_tmin, s_tmax] add no noise.
        s_noise: standard deviation of the added noise. Values slightly above 1 compensate for a denoiser that blurs.
    """
    churn = _Churn(s_churn / (len(times) - 1), s_tmin, s_tmax, s_noise)
    x = trace.start()
    for s, t in pairwise(times):
        x, s_hat = churn.raise_noise(trace, x, s)
        x, x0 = trace.denoise(x, s_hat)
        x = first_order(x, x0, s_hat, t)
    return x


@Published(PAPER, order=2, rows=2)
def edm_heun(
    trace: Tracer,
    times: Sequence[Time],
    *,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = inf,
    s_noise: float = 1.0,
) -> Lin:
    """Algorithm 2 with Heun steps, as published. Without churn it is the deterministic Algorithm 1.

    The step to the clean end takes one evaluation. The parameters are those of `edm_euler`.
    """
    churn = _Churn(s_churn / (len(times) - 1), s_tmin, s_tmax, s_noise)
    x = trace.start()
    for s, t in pairwise(times):
        x, s_hat = churn.raise_noise(trace, x, s)
        x, x0 = trace.denoise(x, s_hat)
        if t.sigma == 0 or s_hat.alpha == 0:
            x = first_order(x, x0, s_hat, t)
            continue
        # y_t = y + (rho_t - rho_s) (eps_s + eps_t) / 2, times alpha_t
        delta = t.sigma - t.alpha * s_hat.sigma / s_hat.alpha
        half = trace.store(t.alpha / s_hat.alpha * x + delta / 2 * noise_prediction(x, x0, s_hat))
        x, x0 = trace.denoise(first_order(x, x0, s_hat, t), t)
        x = half + delta / 2 * noise_prediction(x, x0, t)
    return x


@dataclass(frozen=True)
class _Churn:
    """EDM's parameters for raising the noise level before a step. `share` is s_churn / N."""

    share: float
    tmin: float
    tmax: float
    noise: float

    def __post_init__(self) -> None:
        check_not_negative("s_churn", self.share)
        check_not_negative("s_noise", self.noise)

    def raise_noise(self, trace: Tracer, x: Lin, s: Time) -> tuple[Lin, Time]:
        """Add noise to x to get from s to a noisier s_hat. Return x and s_hat (lines 4 to 6 of Algorithm 2)."""
        if self.share == 0 or s.alpha == 0 or not self.tmin <= s.rho <= self.tmax:
            return x, s
        gamma = min(self.share, sqrt(2) - 1)
        s_hat = trace.schedule.time_at_lam(s.lam - log1p(gamma))
        added = s.rho * sqrt((1 + gamma) ** 2 - 1)  # sqrt(rho_hat^2 - rho_s^2)
        return s_hat.alpha * (x / s.alpha + added * self.noise * trace.noise()), s_hat
