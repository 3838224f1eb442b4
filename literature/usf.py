"""USF (Liu, Ning, Lin, Yang, Wang 2023, arXiv 2312.07243): a unified form of exponential solvers, with separate
decisions for each step. The paper's search, S3, chooses the decisions.

A step is a Taylor expansion of x over lambda around an earlier point. Its derivatives are estimated from differences
between earlier predictions. The decisions are: the order of the expansion, whether x0 or noise is expanded, the point,
the number of predictions for each derivative, a factor that relaxes the first derivative, and a corrector. DDIM,
DPM-Solver and DPM-Solver++ (single- and multistep) and UniPC are special cases; the tests reproduce them.

The paper's third type of prediction, used by DPM-Solver-v3, is in `dpm_v3`. The paper's coefficients of skip
connections are not included, since they change the network, not the plan.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import expm1, factorial, isinf

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction, phi
from fewstep.plans.symbol import Lin, weighted_sum
from fewstep.plans.tracer import Tracer

Relaxation = Callable[[float], float]


def bh1(z: float) -> float:
    """Return the relaxation of UniPC's B1(h) = h. It changes the weight of the first derivative from the exact value,
    z^2 phi_2(z), to z^2 / 2."""
    return 1 / (2 * phi(2, z))


def bh2(z: float) -> float:
    """Return the relaxation of UniPC's B2(h) = e^h - 1, which DPM-Solver-2 and the midpoint version of DPM-Solver++
    also use. It changes the weight of the first derivative to z (e^z - 1) / 2."""
    return expm1(z) / (2 * z * phi(2, z))


@dataclass(frozen=True)
class Expansion:
    """The expansion of x at the end of a step around an earlier point.

    `order`, 1 to 4, includes derivatives up to order - 1. `start` is the point, counted back from the newest (1).
    Derivative i is estimated from `differences[i - 1]` other predictions: first those after the point, then those
    before it. If `differences` is empty, each is estimated from order - 1 predictions. `relaxation` is a factor of the
    first derivative as a function of z, which is the step in lambda, or minus that if x0 is expanded.
    """

    order: int = 1
    start: int = 1
    differences: tuple[int, ...] = ()
    relaxation: Relaxation | None = None


@dataclass(frozen=True)
class Decision:
    """One step: a predictor and, optionally, a corrector, whose newest point is the predicted one.

    `on_noise` expands the predicted noise instead of x0. A corrector reuses the prediction at the uncorrected x.
    """

    predictor: Expansion = Expansion()
    on_noise: bool = False
    corrector: Expansion | None = None


@dataclass(frozen=True)
class _Point:
    time: Time
    x: Lin
    x0: Lin
    eps: Lin


def usf(decisions: Sequence[Decision]) -> Callable[[Tracer, Sequence[Time]], Lin]:
    """Return the solver that takes these steps. There must be one time more than steps.

    Rows: x, and the prediction of each earlier evaluation that the derivatives of a step use.
    """

    def solver(trace: Tracer, times: Sequence[Time]) -> Lin:
        if len(times) != len(decisions) + 1:
            raise UserError(f"{len(decisions)} decisions for {len(times) - 1} steps", "give one decision per step")
        points = [_evaluate(trace, trace.start(), times[0])]
        for i, (decision, t) in enumerate(zip(decisions, times[1:], strict=True)):
            is_last = i == len(decisions) - 1
            x = _expand(decision.predictor, decision.on_noise, points, t)
            if is_last and decision.corrector is None:
                break
            if t.sigma == 0:
                raise UserError("the step to the clean end cannot have a corrector", "leave the last corrector out")
            predicted = trace.store(x)
            points.insert(0, _evaluate(trace, predicted, t))
            if decision.corrector is not None:
                moved = points[0].x - predicted  # the change by CFG++
                x = trace.store(_expand(decision.corrector, decision.on_noise, points, t) + moved)
                points[0] = replace(points[0], x=x)
        return x

    return solver


def _evaluate(trace: Tracer, x: Lin, time: Time) -> _Point:
    x, x0 = trace.denoise(x, time)
    return _Point(time, x, x0, trace.store(noise_prediction(x, x0, time)))


def _expand(expansion: Expansion, on_noise: bool, points: Sequence[_Point], t: Time) -> Lin:
    """Return x at time t by a Taylor expansion whose derivatives are finite differences between the predictions at
    `points`. Raises UserError if there are too few points for the orders of `expansion`."""
    order, differences = expansion.order, expansion.differences or (expansion.order - 1,) * (expansion.order - 1)
    if not 1 <= order <= 4 or not 1 <= expansion.start <= len(points) or len(differences) != order - 1:
        raise UserError(
            f"{expansion} does not fit {len(points)} known points", "choose order 1 .. 4 and a start among them"
        )
    for i, count in enumerate(differences, start=1):
        if not i <= count < len(points):
            raise UserError(
                f"derivative {i} cannot be estimated from {count} differences with {len(points)} known points",
                f"choose {i} .. {len(points) - 1} (fewer derivatives in the first steps)",
            )
    origin = points[expansion.start - 1]
    s, h = origin.time, t.lam - origin.time.lam
    if isinf(h):
        if order > 1:
            raise UserError(
                f"the step from {s.network:g} to {t.network:g}, infinitely long in lambda, cannot have order {order}",
                "choose order 1",
            )
        return first_order(origin.x, origin.x0, s, t)
    if on_noise:
        z, scale = h, -t.sigma
        x = t.alpha / s.alpha * origin.x + scale * expm1(h) * origin.eps
    else:
        z, scale = -h, t.alpha
        x = t.sigma / s.sigma * origin.x - scale * expm1(-h) * origin.x0
    after, before = points[: expansion.start - 1][::-1], points[expansion.start :]
    others = [*after, *before]
    for i, count in enumerate(differences, start=1):
        relaxed = expansion.relaxation(z) if expansion.relaxation is not None and i == 1 else 1.0
        derivative = _derivative(i, origin, others[:count], on_noise)
        x = x + scale * h ** (i + 1) * phi(i + 1, z) * relaxed * derivative
    return x


def _derivative(i: int, origin: _Point, others: Sequence[_Point], on_noise: bool) -> Lin:
    """Return the i-th derivative over lambda at `origin`, from the Taylor expansion of the differences to the other
    points."""
    gaps = np.array([other.time.lam - origin.time.lam for other in others])
    powers = np.array([gaps**k / factorial(k) for k in range(1, len(others) + 1)])
    away = (other.eps - origin.eps if on_noise else other.x0 - origin.x0 for other in others)
    return weighted_sum(np.linalg.solve(powers, np.eye(len(others))[i - 1]), away)
