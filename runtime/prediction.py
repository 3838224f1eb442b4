"""What a denoiser's output means: x0 is linear in (x, output) for every kind of prediction."""

from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Prediction
from fewstep.runtime.schedule import Time


def x0_coefficients(prediction: Prediction, time: Time) -> tuple[float, float]:
    """(a, b) with x0 = a x + b output, where x = alpha x0 + sigma eps.

    epsilon: the noise (Ho et al. 2020). sample: x0 itself. v: alpha eps - sigma x0 (Salimans & Ho 2022), for
    alpha^2 + sigma^2 = 1. flow: the velocity eps - x0 (Lipman et al. 2023, Liu et al. 2023), for alpha + sigma = 1.
    """
    alpha, sigma = time.alpha, time.sigma
    if prediction == "epsilon":
        if alpha == 0:
            raise UserError(
                f"an epsilon prediction says nothing of x0 at time {time.network:g}, where alpha is 0",
                "start later, or use a denoiser that predicts v, flow or sample",
            )
        return 1 / alpha, -sigma / alpha
    if prediction == "sample":
        return 0.0, 1.0
    if prediction == "v":
        return alpha, -sigma
    return 1.0, -sigma


def check(prediction: Prediction, time: Time) -> None:
    """v is defined on variance-preserving schedules, flow on straight paths; anything else would be silently wrong."""
    alpha, sigma = time.alpha, time.sigma
    if prediction == "v" and abs(alpha**2 + sigma**2 - 1) > 1e-6:
        raise UserError("a v prediction on a schedule where alpha^2 + sigma^2 is not 1", "use prediction flow")
    if prediction == "flow" and abs(alpha + sigma - 1) > 1e-6:
        raise UserError("a flow prediction on a schedule where alpha + sigma is not 1", "use schedule flow")
