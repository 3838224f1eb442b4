"""iPNDM (Zhang & Chen 2023, arXiv 2204.13902): PNDM (Liu, Ren, Lin, Zhao 2022, arXiv 2202.09778) without its
Runge-Kutta start."""

from collections.abc import Sequence
from itertools import pairwise

from fewstep.runtime.lin import Lin
from fewstep.runtime.schedule import Time
from fewstep.runtime.solvers.exponential import first_order, predicted_noise
from fewstep.runtime.trace import Tracer

# Adams-Bashforth for even steps, newest value first
ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """Four values of the predicted noise, then a DDIM step with their combination. One evaluation a step, four rows.

    The combination is that of even steps in sigma / alpha, which grids do not have, so its order is 2 and not 4;
    `lms_4` costs the same and takes the steps as they are. The first three steps combine one, two and three values. As
    published, the step to the clean end combines four too; only a step from pure noise (sigma / alpha infinite) is
    first order.
    """
    x = sampler.start()
    history: list[Lin] = []  # newest first
    for s, t in pairwise(times):
        x, x0 = sampler.denoise(x, s)
        history = [sampler.store(predicted_noise(x, x0, s)), *history[:3]]
        if s.alpha == 0:
            x = first_order(x, x0, s, t)
            continue
        eps = Lin({})
        for weight, value in zip(ADAMS_BASHFORTH[len(history) - 1], history):
            eps = eps + weight * value
        x = t.alpha / s.alpha * x + (t.sigma - t.alpha * s.sigma / s.alpha) * eps
    return x
