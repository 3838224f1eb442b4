"""UniPC (Zhao, Bai, Rao, Zhou, Lu 2023, arXiv 2302.04867): a predictor, and a corrector that costs no evaluation.

Each prediction is evaluated once. The corrector uses that x0 to redo the step which led there, and the next step starts
from the corrected x; the last step has no corrector. All forms here predict x0.

The predictor's order p rises from 1 in the first steps and, where the grid ends clean, falls to 1 in the last ones, as
in the authors' code: lambda is infinite at the clean end, where x is the predicted x0. A step from pure noise, infinite
too, is first order and not corrected, and no later polynomial goes through its x0.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from math import expm1, factorial, isinf

import numpy as np

from fewstep.runtime.lin import Lin
from fewstep.runtime.schedule import Time
from fewstep.runtime.solvers.exponential import first_order, phi
from fewstep.runtime.trace import Tracer


def unipc_1(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """UniPC-1, B2(h) = e^h - 1: predictor of order 1, corrected to 2. One evaluation a step, two rows."""
    return _unipc(sampler, times, 1, expm1)


def unipc_2(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """UniPC-2, B2(h) = e^h - 1: predictor of order 2, corrected to 3. One evaluation a step, three rows."""
    return _unipc(sampler, times, 2, expm1)


def unipc_2_bh1(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """UniPC-2, B1(h) = h: predictor of order 2, corrected to 3. One evaluation a step, three rows."""
    return _unipc(sampler, times, 2, float)


def unipc_3(sampler: Tracer, times: Sequence[Time]) -> Lin:
    """UniPC-3, B2(h) = e^h - 1: predictor of order 3, corrected to 4. One evaluation a step, four rows.

    B cancels where the weights are solved for, so B1 would change nothing but the first and last steps.
    """
    return _unipc(sampler, times, 3, expm1)


def _unipc(sampler: Tracer, times: Sequence[Time], order: int, B: Callable[[float], float]) -> Lin:
    """Multistep UniP-p and UniC-p with p up to `order`; on x0 the paper's h enters B with its sign changed."""
    x, x0 = sampler.denoise(sampler.start(), times[0])
    known: list[tuple[float, Lin]] = []  # lambda and x0 of the evaluations before s, newest first
    steps, ends_clean = len(times) - 1, times[-1].sigma == 0
    for i, (s, t) in enumerate(pairwise(times)):
        p = min(order, len(known) + 1, steps - i if ends_clean else order)
        h = t.lam - s.lam
        base, scale = first_order(x, x0, s, t), -t.alpha * B(-h)
        rs = [(lam - s.lam) / h for lam, _ in known[: p - 1]]
        D1s = [(earlier - x0) / r for r, (_, earlier) in zip(rs, known)]

        predicted = base
        for rho, D1 in zip(_weights(rs, h, B), D1s):
            predicted = predicted + scale * rho * D1
        if i == steps - 1:
            break
        if isinf(h):
            x, x0 = sampler.denoise(predicted, t)
            continue

        *rhos, rho_t = _weights([*rs, 1.0], h, B)
        corrected = base - scale * rho_t * x0  # all of the corrector but its x0 at t
        for rho, D1 in zip(rhos, D1s):
            corrected = corrected + scale * rho * D1
        corrected = sampler.store(corrected)
        known = [(s.lam, x0), *known][: order - 1]
        _, x0 = sampler.denoise(predicted, t)
        x = corrected + scale * rho_t * x0
    return predicted


def _weights(rs: Sequence[float], h: float, B: Callable[[float], float]) -> list[float]:
    """The paper's rho for nodes r (in steps from s): sum_k r_k^(i-1) rho_k = i! z phi_{i+1}(z) / B(z), z = -h, i >= 1.

    A single weight is 1/2 whatever h is, as the paper has it for UniP-2 and UniC-1.
    """
    if len(rs) < 2:
        return [0.5] * len(rs)
    R = np.vander(rs, increasing=True).T
    b = [factorial(i) * -h * phi(i + 1, -h) / B(-h) for i in range(1, len(rs) + 1)]
    return [float(rho) for rho in np.linalg.solve(R, b)]
