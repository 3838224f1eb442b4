"""DC-Solver (Zhao, Wang, Zhou, Lu 2024, arXiv 2409.03755): UniPC with dynamic compensation.

The prediction that a step starts from was made at the uncorrected x. It is replaced, there and in all later history, by
the polynomial through the last three predictions at a time slightly off its own, t' = rho t_0 + (1 - rho) t_1, with rho
fitted for each step.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.errors import UserError
from fewstep.runtime.lin import Lin
from fewstep.runtime.schedule import Time
from fewstep.runtime.solvers.multistep import lagrange
from fewstep.runtime.solvers.unipc import unipc
from fewstep.runtime.trace import Tracer

LOWEST, HIGHEST = 0.5, 1.5  # of rho, as the authors bound it


def dc_solver(
    sampler: Tracer,
    times: Sequence[Time],
    *,
    ratios: tuple[float, ...] = (),
    order: int = 2,
    bh1: bool = False,
    lower_order_final: bool = False,
) -> Lin:
    """UniPC of this order on x0 with its predictions compensated. One evaluation a step, max(order, 3) + 1 rows.

    Args:
        ratios: rho of each step, from `fit_ratios`; 1 leaves a prediction as it is. The first two have no three
            predictions and are not used. Empty for all 1, which is UniPC.
        order: of the predictor, 1 to 4.
        bh1, lower_order_final: as for `unipc_2`.
    """
    if ratios and len(ratios) != len(times) - 1:
        raise UserError(f"dc_solver with {len(ratios)} ratios for {len(times) - 1} steps", "give one for each step")
    if not 1 <= order <= 4:
        raise UserError(f"dc_solver of order {order}", "choose 1 to 4")
    history: list[tuple[float, Lin]] = []  # the network's time and x0, newest first

    def compensated(i: int, s: Time, x0: Lin) -> Lin:
        nonlocal history
        history = [(s.network, x0), *history[:2]]
        if ratios and ratios[i] != 1 and len(history) == 3:
            at = ratios[i] * history[0][0] + (1 - ratios[i]) * history[1][0]
            moved = Lin({})
            for weight, (_, value) in zip(
                lagrange([t for t, _ in history], np.array([at]))[:, 0], history, strict=True
            ):
                moved = moved + float(weight) * value
            history[0] = (s.network, sampler.store(moved))
        return history[0][1]

    return unipc(sampler, times, order, bh1, False, lower_order_final, compensated=compensated)


def fit_ratios(
    inputs: Callable[[tuple[float, ...]], Sequence[NDArray[np.floating]]], teacher: Sequence[NDArray[np.floating]]
) -> tuple[float, ...]:
    """The `ratios` that bring each step nearest to a teacher's trajectory, step by step on the solver's own.

    What a step predicts is a polynomial of degree 2 in its rho, so three runs tell all of it and the least squares are
    exact, without gradients. (The authors descend on the distance after the next correction.)

    Args:
        inputs: runs the solver with such ratios on a batch: what the network is shown at each time, then the sample.
        teacher: x at the same times from a solver of many steps, then its sample, from the same noise.
    """
    ratios = [1.0] * (len(teacher) - 1)
    probes = np.array([LOWEST, 1.0, HIGHEST])
    inverse = np.linalg.inv(np.vander(probes, increasing=True))
    for i in range(2, len(ratios)):
        runs = [inputs((*ratios[:i], float(probe), *ratios[i + 1 :]))[i + 1] for probe in probes]
        curve = inverse @ np.array([np.ravel(run).astype(np.float64) for run in runs])
        curve[0] -= np.ravel(teacher[i + 1])
        gram = curve @ curve.T
        loss = np.polynomial.Polynomial([sum(gram[j, k - j] for j in range(3) if 0 <= k - j < 3) for k in range(5)])
        stationary = [float(root.real) for root in loss.deriv().roots() if abs(root.imag) < 1e-9]
        ratios[i] = min((rho for rho in (*probes, *stationary) if LOWEST <= rho <= HIGHEST), key=lambda rho: loss(rho))
    return tuple(float(rho) for rho in ratios)
