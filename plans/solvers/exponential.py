"""What exponential solvers have in common: the first-order step, the phi functions of higher orders, and the two forms.

The probability-flow ODE and the diffusion SDE are linear in x except for the prediction m. In lambda their solution is

    x_t = keep x_s + scale z int_0^1 e^((1 - r) z) m(lambda_s + r h) dr + noise,    h = lambda_t - lambda_s.

If m is a polynomial in r, m_s + r D1 + r^2 / 2 D2 with D1 = h m', D2 = h^2 m'', the integral is

    x_t = keep x_s + scale ((e^z - 1) m_s + z phi_2(z) D1 + z phi_3(z) D2) + noise.

m is x0 (DPM-Solver++, `DataPrediction`) or the noise (DPM-Solver, `NoisePrediction`). Their `first_order` returns the
first two terms and the noise.
"""

from dataclasses import dataclass
from functools import cache
from math import exp, expm1, factorial, isinf, sqrt

from fewstep.plans.schedule import Time
from fewstep.plans.solvers.parameters import check_share
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


def first_order(x: Lin, x0: Lin, s: Time, t: Time) -> Lin:
    """Return x at t after one step from s with constant x0. This step is common to DDIM, DPM-Solver-1 and Euler in
    sigma / alpha.

    It is finite if it starts from pure noise, and if it ends at the clean end, where it returns the predicted x0.
    """
    return noise_left(s, t) * x - t.alpha * expm1(s.lam - t.lam) * x0


def noise_left(s: Time, t: Time) -> float:
    """Return sigma_t / sigma_s. A bridge starts without noise, at x = y, which solvers see as x = 0 (`Tracer.start`).
    There the result is 0, the limit."""
    return t.sigma / s.sigma if s.sigma else 0.0


def noise_prediction(x: Lin, x0: Lin, s: Time) -> Lin:
    """Return eps = (x - alpha x0) / sigma, or 0 at the start of a bridge, where sigma is 0."""
    return (x - s.alpha * x0) / s.sigma if s.sigma else Lin({})


def transfer(x: Lin, eps: Lin, s: Time, t: Time) -> Lin:
    """Return the step from s to t with constant eps: dy / d rho = eps for y = x / alpha and rho = sigma / alpha."""
    return t.alpha / s.alpha * x + (t.sigma - t.alpha * s.sigma / s.alpha) * eps


def phi(k: int, z: float) -> float:
    """Return phi_k(z) = (phi_{k-1}(z) - 1 / (k-1)!) / z with phi_0 = exp (Hochbruck & Ostermann 2010), k >= 1.

    For small z the recurrence loses digits by cancellation, so the Taylor series sum_j z^j / (j + k)! replaces it.
    """
    if abs(z) < 1:
        value = 0.0
        for coefficient in _taylor(k):
            value = value * z + coefficient
        return value
    value = exp(z)
    for j in range(k):
        value = (value - 1 / factorial(j)) / z
    return value


@cache
def _taylor(k: int) -> tuple[float, ...]:
    """Return the Taylor coefficients 1 / (j + k)!, the last one first."""
    return tuple(1 / factorial(j + k) for j in reversed(range(20)))


@dataclass(frozen=True)
class DataPrediction:
    """m is the predicted x0 (Lu et al. 2022, arXiv 2211.01095). `eta` in [0, 1] interpolates between the ODE (0) and
    the SDE (1), as in k-diffusion. Steps of infinite h, from pure noise or to the clean end, are exact for constant
    x0."""

    eta: float = 0.0

    def __post_init__(self) -> None:
        check_share("eta", self.eta)

    def value(self, x: Lin, x0: Lin, s: Time) -> Lin:
        """Return m, which is x0 itself."""
        return x0

    def prediction(self, trace: Tracer, x: Lin, x0: Lin, s: Time) -> Lin:
        """Store m as a row, and return it."""
        return x0

    def first_order(self, trace: Tracer, x: Lin, x0: Lin, m: Lin, s: Time, t: Time) -> Lin:
        if self.eta == 0:
            return first_order(x, m, s, t)
        h = t.lam - s.lam
        _, z = self.curve(s, t)
        x = noise_left(s, t) * exp(-self.eta * h) * x - t.alpha * expm1(z) * m
        return x if t.sigma == 0 else x + t.sigma * sqrt(-expm1(-2 * self.eta * h)) * trace.noise()

    def curve(self, s: Time, t: Time) -> tuple[float, float]:
        """Return (scale, z) of a step."""
        return -t.alpha, -(1 + self.eta) * (t.lam - s.lam)


@dataclass(frozen=True)
class NoisePrediction:
    """m is the predicted noise (Lu et al. 2022, arXiv 2206.00927). The SDE has twice the ODE's drift. Steps of infinite
    h have first order on x0, and the step to the clean end adds no noise."""

    is_stochastic: bool = False

    def value(self, x: Lin, x0: Lin, s: Time) -> Lin:
        """Return m, the noise that belongs to the prediction x0 at x and s."""
        return noise_prediction(x, x0, s)

    def prediction(self, trace: Tracer, x: Lin, x0: Lin, s: Time) -> Lin:
        """Store m as a row of the state, and return that row."""
        return trace.store(self.value(x, x0, s))

    def first_order(self, trace: Tracer, x: Lin, x0: Lin, m: Lin, s: Time, t: Time) -> Lin:
        if isinf(t.lam - s.lam):
            return DataPrediction(eta=float(self.is_stochastic)).first_order(trace, x, x0, x0, s, t)
        scale, z = self.curve(s, t)
        x = t.alpha / s.alpha * x + scale * expm1(z) * m
        return x + t.sigma * sqrt(expm1(2 * z)) * trace.noise() if self.is_stochastic else x

    def curve(self, s: Time, t: Time) -> tuple[float, float]:
        """Return (scale, z) of a step."""
        return -(1 + self.is_stochastic) * t.sigma, t.lam - s.lam


Form = DataPrediction | NoisePrediction
