"""The prediction type defines how x0 follows from a denoiser's output. It is linear in (x, output) for every type.

x = alpha x0 + sigma eps; rho = sigma / alpha. Preconditioned networks were trained on y = x / alpha = x0 + rho eps.
"""

from math import sqrt

from fewstep.plans.errors import UserError
from fewstep.plans.paths import EVEN, RESTORING, rates, sigma_range
from fewstep.plans.schedule import Time
from fewstep.plans.spec import Prediction, ScheduleSpec

PRECONDITIONED = ("edm", "consistency")  # predictions whose network receives c_in y


def x0_coefficients(prediction: Prediction, time: Time, spec: ScheduleSpec) -> tuple[float, float]:
    """Return (a, b) with x0 = a x + b output, where `output` is the network's output for `input_scale` x.

    - epsilon: the noise eps (Ho et al. 2020, arXiv 2006.11239).
    - sample: x0 itself.
    - v: alpha eps - sigma x0 (Salimans & Ho 2022, arXiv 2202.00512), for alpha^2 + sigma^2 = 1. On schedule edm it
      is in units of sigma_data: minus the network of `edm`.
    - flow: the velocity eps - x0 (Lipman et al. 2023, arXiv 2210.02747; Liu et al. 2023), for alpha + sigma = 1.
    - score: the gradient of log p(x), which is -eps / sigma (Song et al. 2021, arXiv 2011.13456).
    - edm: x0 = c_skip y + c_out output (Karras et al. 2022, arXiv 2206.00364, table 1).
    - residual: y - x0 for the degraded sample y, on schedules of x - y. The tracer adds y.
    - velocity: dx/dt with t scaled to [0, 1], alpha' x0 + sigma' eps: `flow` on any path (Albergo, Boffi &
      Vanden-Eijnden 2023, arXiv 2303.08797, equation 2.10).
    - consistency: as edm, with x0 = y at sigma_min (Song et al. 2023, arXiv 2303.01469, appendix C).

    Raises UserError for logits, which only token denoisers predict, and where alpha is 0 and the output does not
    determine x0.
    """
    if prediction == "logits":
        raise UserError("this denoiser predicts tokens, but the plan is for continuous samples", "use maskgit:8")
    alpha, sigma = time.alpha, time.sigma
    if alpha == 0 and prediction in ("epsilon", "score", *PRECONDITIONED):
        raise UserError(
            f"the {prediction} prediction does not determine x0 at time {time.network:g}, where alpha is 0",
            "start later, or use a denoiser that predicts v, flow or sample",
        )
    if prediction == "epsilon":
        return 1 / alpha, -sigma / alpha
    if prediction == "sample":
        return 0.0, 1.0
    if prediction == "flow":
        return 1.0, -sigma
    if prediction == "score":
        return 1 / alpha, sigma * sigma / alpha
    if prediction == "v" and not _counts_in_sigma_data(spec):
        return alpha, -sigma
    if prediction == "residual":
        return 0.0, -1.0
    if prediction == "velocity":
        of_alpha, of_sigma = rates(spec, time.network)
        turns = of_sigma * alpha - sigma * of_alpha
        return of_sigma / turns, -sigma / turns
    rho, data = sigma / alpha, spec.sigma_data
    if prediction == "consistency":
        above = rho - sigma_range(spec)[0]
        return data**2 / (above**2 + data**2) / alpha, above * data / sqrt(rho**2 + data**2)
    c_out = rho * data / sqrt(rho**2 + data**2)
    return data**2 / (rho**2 + data**2) / alpha, -c_out if prediction == "v" else c_out


def input_scale(prediction: Prediction, time: Time, spec: ScheduleSpec) -> float:
    """Return c_in, the factor of x in the network's input.

    With EDM's c_in, the input has variance 1 for data of standard deviation sigma_data; with ResShift's, for data of
    standard deviation 1.
    """
    if prediction in PRECONDITIONED or (prediction == "v" and _counts_in_sigma_data(spec)):
        return 1 / sqrt(time.sigma**2 + (time.alpha * spec.sigma_data) ** 2)
    if spec.kind == "residual-shift":
        return 1 / sqrt(time.sigma**2 + 1)
    return 1.0


def check_prediction(prediction: Prediction, time: Time, spec: ScheduleSpec) -> None:
    """Raise UserError if a prediction is not defined on a schedule, where it would give wrong samples without notice:
    v needs variance-preserving schedules, flow straight paths."""
    alpha, sigma = time.alpha, time.sigma
    if prediction == "v" and not _counts_in_sigma_data(spec) and abs(alpha**2 + sigma**2 - 1) > 1e-6:
        raise UserError("prediction v needs a schedule where alpha^2 + sigma^2 is 1", "use prediction flow")
    if prediction in ("flow", "logits") and abs(alpha + sigma - 1) > 1e-6:
        raise UserError(f"prediction {prediction} needs a schedule where alpha + sigma is 1", "use schedule flow")
    if prediction == "residual" and spec.kind not in RESTORING:
        raise UserError(
            f"prediction residual needs a schedule that restores a degraded sample, unlike {spec.kind}",
            f"use one of the schedules {', '.join(RESTORING)}",
        )
    if prediction == "velocity" and spec.kind not in EVEN:
        raise UserError(
            f"prediction velocity needs a schedule that defines a velocity in its time, unlike {spec.kind}",
            f"use one of the schedules {', '.join(EVEN)}",
        )
    if prediction == "consistency" and spec.kind != "edm":
        raise UserError(
            f"prediction consistency needs a schedule with sigma_min, unlike {spec.kind}", "use schedule edm"
        )


def _counts_in_sigma_data(spec: ScheduleSpec) -> bool:
    return spec.kind == "edm"
