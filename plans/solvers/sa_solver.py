"""SA-Solver (Xue, Yi, Luo, Zhang, Sun, Li, Ma 2023, arXiv 2309.05019): stochastic Adams, predictor and corrector.

The SDEs with the marginals of the diffusion are a family over tau >= 0, with the probability-flow ODE at 0 and the
reversed diffusion at 1. From s to t the solution is

    x_t = sigma_t / sigma_s e^(-tau^2 h) x_s + k sigma_t e^(-tau^2 lambda_t) int e^(k lambda) x0 d lambda
          + sigma_t sqrt(1 - e^(-2 tau^2 h)) z,    k = 1 + tau^2,

so only x0 is approximated, by a polynomial in lambda. The predictor's polynomial goes through past predictions, the
corrector's also through the one at t. Both use the same noise z.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import exp, expm1, inf, isinf, sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.adams import exponential_moments, weights_of_moments
from fewstep.plans.solvers.exponential import noise_left
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Xue et al. 2023, arXiv 2309.05019", order=2, rows=3)
def sa_solver(
    trace: Tracer,
    times: Sequence[Time],
    *,
    tau: float = 1.0,
    predictor: int = 2,
    corrector: int = 2,
    tau_from: float = -inf,
    tau_to: float = inf,
    simple: bool = True,
    lower_order_final: bool | None = None,
) -> Lin:
    """Stochastic Adams (Algorithm 1). It has max(predictor + 1, corrector) rows, or `predictor` without a corrector.
    For tau 0 its order is min(predictor + 1, corrector). With noise, the sample's mean and variance converge with this
    order, but at most 2.

    Args:
        tau: scale of the noise in steps that start at a network time in [tau_from, tau_to]. The other steps are
            deterministic. The default of diffusers is 1 in [200, 800].
        predictor: number of past predictions of the predictor's polynomial, 1 to 4.
        corrector: number of predictions of the corrector's polynomial, including the new one, 1 to 4; 0 for no
            corrector.
        simple: weight the slope of a polynomial through two predictions by its limit for small steps, kh / 2, as the
            authors' code does. The difference is of third order.
        lower_order_final: lower the orders in the last steps. None does so if the grid ends clean.

    The orders increase in the first steps. A step to the clean end or from pure noise is infinitely long in lambda. It
    has first order and no corrector, and no later polynomial goes through the x0 of pure noise.
    """
    if not 1 <= predictor <= 4 or not 0 <= corrector <= 4 or tau < 0:
        raise UserError(
            f"sa_solver has tau {tau:g}, predictor {predictor}, corrector {corrector}, out of range",
            "choose tau >= 0, predictor in 1 .. 4, corrector in 0 .. 4",
        )
    lowers = times[-1].sigma == 0 if lower_order_final is None else lower_order_final
    x, x0 = trace.denoise(trace.start(), times[0])
    known: list[tuple[float, Lin]] = []  # lambda and x0 of evaluations, newest first
    steps = len(times) - 1
    for i, (s, t) in enumerate(pairwise(times)):
        h = t.lam - s.lam
        left = steps - i if lowers else steps
        noise = tau if tau_from <= s.network <= tau_to else 0.0
        k = 1 + noise**2

        base = noise_left(s, t) * (exp(-(noise**2) * h) if noise else 1.0) * x  # h may be infinite
        if noise > 0 and t.sigma > 0:
            base = base + t.sigma * sqrt(-expm1(-2 * noise**2 * h)) * trace.noise()
        if isinf(h):
            x = base - t.alpha * expm1(-k * h) * x0
            if i < steps - 1:
                x, x0 = trace.denoise(x, t)
            continue

        known = [(s.lam, x0), *known][: max(predictor, corrector - 1)]
        past = known[: min(predictor, left)]
        predicted = base
        for weight, (_, value) in zip(_weights([(lam - s.lam) / h for lam, _ in past], k * h, simple), past):
            predicted = predicted + t.alpha * weight * value
        if i == steps - 1:
            return predicted
        if not corrector:
            x, x0 = trace.denoise(predicted, t)
            continue

        past = known[: min(corrector, left + 1) - 1]
        weight_t, *weights = _weights([1.0, *((lam - s.lam) / h for lam, _ in past)], k * h, simple)
        corrected = base  # all terms except that of x0 at t
        for weight, (_, value) in zip(weights, past):
            corrected = corrected + t.alpha * weight * value
        corrected, predicted = trace.store(corrected), trace.store(predicted)
        x, x0 = trace.denoise(predicted, t)
        x = corrected + t.alpha * weight_t * x0 + (x - predicted)  # with the shift that CFG++ made to the predicted x
    return x


def _weights(nodes: Sequence[float], kh: float, simple: bool) -> list[float]:
    """Return kh int_0^1 e^(-(1 - r) kh) l_j(r) dr for the nodes r, in steps from s."""
    moments = [-moment for moment in exponential_moments(len(nodes), -kh)]
    if simple and len(nodes) == 2:
        moments[1] = kh / 2
    return weights_of_moments(nodes, moments)
