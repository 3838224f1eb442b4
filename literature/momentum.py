"""Heavy-ball momentum (Wizadwongsa, Chinchuthakun, Khungurn, Raj, Suwajanakorn 2023, arXiv 2307.11118) for PLMS,
DPM-Solver++(2M) and UniPC, and Nesterov's momentum for PLMS. The paper's generalised heavy-ball method is
`fewstep.plans.solvers.momentum`."""

from collections.abc import Sequence
from itertools import pairwise
from math import expm1, isfinite

from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_left, noise_prediction, transfer
from fewstep.plans.solvers.momentum import PAPER, check_momentum, combine_velocities
from fewstep.plans.solvers.unipc import predict_and_correct
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published(PAPER, order=1, rows=3)
def hb(trace: Tracer, times: Sequence[Time], *, beta: float = 0.8, order: int = 2) -> Lin:
    """Sample with Polyak's heavy ball, v <- (1 - beta) v + beta AB(eps), y <- y + (rho_t - rho_s) v. The order is 1 for
    beta < 1. Plans have `order` + 1 rows.

    Args:
        beta: in (0, 1]; smaller values damp more.
        order: 1 to 4, the number of predicted noises that Adams-Bashforth combines.
    """
    check_momentum("hb", beta, order)
    return _plms(trace, times, beta, order, has_lookahead=False)


@Published(PAPER, order=1, rows=3)
def nesterov(trace: Tracer, times: Sequence[Time], *, beta: float = 0.8, order: int = 2) -> Lin:
    """Sample with Nesterov's momentum, g = AB(eps), v <- (1 - beta) v + beta g, y <- y + (rho_t - rho_s) ((1 - beta) v
    + beta g). The order is 1 for beta < 1. Plans have `order` + 1 rows.

    Args:
        beta: in (0, 1]; smaller values damp more.
        order: 1 to 4, the number of predicted noises that Adams-Bashforth combines.
    """
    check_momentum("nesterov", beta, order)
    return _plms(trace, times, beta, order, has_lookahead=True)


def _plms(trace: Tracer, times: Sequence[Time], beta: float, order: int, has_lookahead: bool) -> Lin:
    x = trace.start()
    history: list[Lin] = []  # predicted noise, newest first
    velocity: Lin | None = None
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        history = [trace.store(noise_prediction(x, x0, s)), *history[: order - 1]]
        pushed = combine_velocities(history)
        velocity = trace.store(pushed if velocity is None else (1 - beta) * velocity + beta * pushed)
        slope = (1 - beta) * velocity + beta * pushed if has_lookahead else velocity
        x = first_order(x, x0, s, t) if s.alpha == 0 else transfer(x, slope, s, t)
    return x


@Published(PAPER, order=1, rows=3)
def hb_dpmpp_2m(trace: Tracer, times: Sequence[Time], *, beta: float = 0.8) -> Lin:
    """Sample with DPM-Solver++(2M) and heavy-ball momentum: v <- (1 - beta) v + beta (x0 + h / (2 h') (x0 - x0')),
    x <- sigma_t / sigma_s x - alpha_t (e^-h - 1) v, with h' and x0' of the previous step. The order is 1 for beta < 1.

    As in the authors' code, v begins at the first step of order 2, and a step to the clean end has no momentum.

    Args:
        beta: in (0, 1]; smaller values damp more, and 1 is `dpmpp_2m`.
    """
    check_momentum("hb_dpmpp_2m", beta, order=2)
    x = trace.start()
    last: tuple[Lin, float] | None = None  # x0 and h of the last step
    velocity: Lin | None = None
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        h = t.lam - s.lam
        pushed = x0
        if last is not None and isfinite(h):
            pushed = x0 + h / last[1] / 2 * (x0 - last[0])  # from pure noise h' is infinite: the slope is 0
            velocity = trace.store(pushed if velocity is None else (1 - beta) * velocity + beta * pushed)
            pushed = velocity
        x = noise_left(s, t) * x - t.alpha * expm1(-h) * pushed
        last = x0, h
    return x


@Published(PAPER, order=None, rows=5)
def hb_unipc(trace: Tracer, times: Sequence[Time], *, beta: float = 0.8, order: int = 2) -> Lin:
    """Sample with UniPC and heavy-ball momentum in its corrector: v <- (1 - beta) v + beta m / sigma_t,
    x <- sigma_t / sigma_s x - alpha_t (e^-h - 1) sigma_t v. Here m is the constant x0 that would give the corrector's
    step from s to t. Plans have `order` + 3 rows.

    Two things are as in the authors' code. The predictor has no momentum: a velocity is computed there, and overwritten
    by the value without momentum. And v is divided by sigma_t, so its weights do not add up to 1, and the error falls
    somewhat more slowly than 1 / steps for beta < 1.

    Args:
        beta: in (0, 1]; smaller values damp more, and 1 is `unipc`.
        order: order of the predictor, 1 to 4.
    """
    check_momentum("hb_unipc", beta, order)
    velocity: Lin | None = None

    def accelerate(s: Time, t: Time, x: Lin, corrected: Lin) -> Lin:
        nonlocal velocity
        kept, scale = noise_left(s, t) * x, -t.alpha * expm1(s.lam - t.lam) * t.sigma
        pushed = (corrected - kept) / scale
        velocity = trace.store(pushed if velocity is None else (1 - beta) * velocity + beta * pushed)
        return kept + scale * velocity

    return predict_and_correct(trace, times, order, False, False, False, accelerated=accelerate)
