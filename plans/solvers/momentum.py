"""Momentum for the probability-flow ODE (Wizadwongsa, Chinchuthakun, Khungurn, Raj, Suwajanakorn 2023, arXiv
2307.11118). It damps the divergence of multistep methods with few steps, for one more row and no more evaluations.

It integrates dy / d rho = eps for y = x / alpha and rho = sigma / alpha, with the coefficients of equal steps in rho.
With beta = 1 it is Adams-Bashforth (PLMS). A step from pure noise, where rho is infinite, has first order. The paper's
plain heavy ball is `fewstep.literature.momentum`.
"""

from collections.abc import Sequence
from itertools import pairwise

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.exponential import first_order, noise_prediction, transfer
from fewstep.plans.symbol import Lin, weighted_sum
from fewstep.plans.tracer import Tracer

PAPER = "Wizadwongsa et al. 2023, arXiv 2307.11118"


@Published(PAPER, order=2, rows=2)
def ghvb(trace: Tracer, times: Sequence[Time], *, beta: float = 0.8, order: int = 2) -> Lin:
    """Generalized heavy ball, v <- (1 - beta) v + beta eps, y <- y + (rho_t - rho_s) sum_j c_j v_j.

    The c keep the order of Adams-Bashforth in spite of the momentum: `order` on equal steps, and at most 2 on uneven
    steps, which grids have. It has max(order, 2) rows. The paper calls it GHVB(order - 1 + beta).

    Args:
        beta: in (0, 1]. Smaller values damp more.
        order: number of velocities that are combined, 1 to 4.
    """
    check_momentum("ghvb", beta, order)
    x = trace.start()
    velocities: list[Lin] = []  # newest first
    for s, t in pairwise(times):
        x, x0 = trace.denoise(x, s)
        velocity = noise_prediction(x, x0, s)
        if velocities:
            velocity = (1 - beta) * velocities[0] + beta * velocity
        velocities = [trace.store(velocity), *velocities[: order - 1]]
        x = first_order(x, x0, s, t) if s.alpha == 0 else transfer(x, combine_velocities(velocities, beta), s, t)
    return x


def combine_velocities(values: Sequence[Lin], b: float = 1.0) -> Lin:
    """Combine up to four velocities of momentum b, newest first, with the Adams-Bashforth weights of equal steps. b = 1
    is plain Adams-Bashforth."""
    weights = (
        (1.0,),
        ((2 + b) / (2 * b), -(2 - b) / (2 * b)),
        ((18 + 5 * b) / (12 * b), -(24 - 8 * b) / (12 * b), (6 - b) / (12 * b)),
        ((46 + 9 * b) / (24 * b), -(78 - 19 * b) / (24 * b), (42 - 5 * b) / (24 * b), -(10 - b) / (24 * b)),
    )[len(values) - 1]
    return weighted_sum(weights, values)


def check_momentum(name: str, beta: float, order: int) -> None:
    """Raise UserError for a beta or an order out of range."""
    if not 0 < beta <= 1 or not 1 <= order <= 4:
        raise UserError(
            f"{name} has beta {beta:g} and order {order}, out of range", "choose beta in (0, 1] and order in 1 .. 4"
        )
