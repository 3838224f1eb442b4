"""UniPC (Zhao, Bai, Rao, Zhou, Lu 2023, arXiv 2302.04867): a predictor, and a corrector without extra evaluations.

The network is evaluated once per time. The corrector repeats the step to that time with the new prediction, and the
next step starts from the corrected x. The last step has no corrector.

The predictor's order p increases from 1 in the first steps. If the grid ends clean, it decreases to 1 in the last steps
as in the authors' code, since lambda is infinite at the clean end, where x is the predicted x0. A step from pure noise,
also infinite in lambda, has first order and no corrector, and no later polynomial goes through its prediction.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1, factorial, isinf

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published, published_orders
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.adams import weights_of_moments
from fewstep.plans.solvers.exponential import DataPrediction, Form, NoisePrediction, phi
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@published_orders({p: Published("Zhao et al. 2023, arXiv 2302.04867", order=p + 1, rows=p + 1) for p in (1, 2, 3, 4)})
def unipc(
    trace: Tracer,
    times: Sequence[Time],
    *,
    order: int,
    bh1: bool = False,
    on_noise: bool = False,
    lower_order_final: bool = False,
    uncorrected: tuple[float, ...] = (),
) -> Lin:
    """UniPC-p: a predictor of order p, corrected to p + 1.

    Args:
        order: the order p of the predictor.
        bh1: use B1(h) = h as the paper's B instead of B2(h) = e^h - 1. B cancels where weights are solved for, so it
            matters only for the predictor of order 2 and the corrector of order 1.
        on_noise: integrate the predicted noise instead of x0.
        lower_order_final: lower the order in the last steps even for grids that do not end clean.
        uncorrected: the steps without a corrector, counted from 0, for guidance that makes the first corrections
            overshoot (`disable_corrector` of diffusers).
    """
    return predict_and_correct(trace, times, order, bh1, on_noise, lower_order_final, uncorrected)


def predict_and_correct(
    trace: Tracer,
    times: Sequence[Time],
    order: int,
    bh1: bool,
    on_noise: bool,
    lower_order_final: bool,
    uncorrected: Sequence[float] = (),
    compensated: Callable[[int, Time, Lin], Lin] | None = None,
    accelerated: Callable[[Time, Time, Lin, Lin], Lin] | None = None,
) -> Lin:
    """Multistep UniP-p and UniC-p with p up to `order`. m is x0 or the noise, and B takes z = -h or z = h.

    `compensated(number of the step, time, m)` returns the value that replaces m from that step on (`dc_solver.py`).
    `accelerated(s, t, x at s, corrected x)` returns the x that replaces the corrected one (`momentum.py`).
    """
    form: Form = NoisePrediction() if on_noise else DataPrediction()
    x, x0 = trace.denoise(trace.start(), times[0])
    m = form.prediction(trace, x, x0, times[0])
    known: list[tuple[float, Lin]] = []  # lambda and m of the evaluations before s, newest first
    steps, lowers = len(times) - 1, lower_order_final or times[-1].sigma == 0
    if not set(uncorrected) <= set(range(steps)):
        raise UserError(
            f"uncorrected={list(uncorrected)} has values that are not steps", f"give integers from 0 to {steps - 1}"
        )
    for i, (s, t) in enumerate(pairwise(times)):
        p = min(order, len(known) + 1, steps - i if lowers else order)
        h = t.lam - s.lam
        if compensated is not None:
            m = compensated(i, s, m)
        scale, z = form.curve(s, t)
        B = z if bh1 else expm1(z)
        base = form.first_order(trace, x, x0, m, s, t)
        rs = [(lam - s.lam) / h for lam, _ in known[: p - 1]]
        D1s = [(earlier - m) / r for r, (_, earlier) in zip(rs, known)]

        predicted = base
        for rho, D1 in zip(_weights(rs, z, B), D1s):
            predicted = predicted + scale * B * rho * D1
        if i == steps - 1:
            break
        if not isinf(h):
            known = [(s.lam, m), *known][: order - 1]
        if isinf(h) or i in uncorrected:
            x, x0 = trace.denoise(predicted, t)
            m = form.prediction(trace, x, x0, t)
            continue

        *rhos, rho_t = _weights([*rs, 1.0], z, B)
        corrected = base - scale * B * rho_t * m  # all terms of the corrector except that of m at t
        for rho, D1 in zip(rhos, D1s):
            corrected = corrected + scale * B * rho * D1
        before, corrected, predicted = x, trace.store(corrected), trace.store(predicted)
        x, x0 = trace.denoise(predicted, t)
        m = form.prediction(trace, x, x0, t)
        corrected = corrected + scale * B * rho_t * m
        if accelerated is not None:
            corrected = trace.store(accelerated(s, t, before, corrected))
        x = corrected + (x - predicted)  # with the shift that CFG++ made to the predicted x
    return predicted


def _weights(rs: Sequence[float], z: float, B: float) -> list[float]:
    """Return the paper's rho for nodes r (in steps from s): sum_k r_k^(i-1) rho_k = i! z phi_{i+1}(z) / B, i >= 1.

    A single weight is 1/2 for any z, as in the paper for UniP-2 and UniC-1.
    """
    if len(rs) < 2:
        return [0.5] * len(rs)
    return weights_of_moments(rs, [factorial(i) * z * phi(i + 1, z) / B for i in range(1, len(rs) + 1)])
