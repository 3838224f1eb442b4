"""DC-Solver (Zhao, Wang, Zhou, Lu 2024, arXiv 2409.03755): UniPC with dynamic compensation.

A step starts from a prediction that was made at the uncorrected x. That prediction is replaced, in this step and in all
later ones, by the value of the polynomial through the last three predictions at a slightly different time, t' = rho t_0
+ (1 - rho) t_1. rho is fitted for each step.
"""

from collections.abc import Sequence

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.publication import Published
from fewstep.plans.schedule import Time
from fewstep.plans.solvers.multistep import lagrange
from fewstep.plans.solvers.unipc import predict_and_correct
from fewstep.plans.symbol import Lin
from fewstep.plans.tracer import Tracer


@Published("Zhao et al. 2024, arXiv 2409.03755", order=3, rows=3, fitted=True)
def dc_solver(
    trace: Tracer,
    times: Sequence[Time],
    *,
    ratios: tuple[float, ...] = (),
    order: int = 2,
    bh1: bool = False,
    lower_order_final: bool = False,
) -> Lin:
    """Sample with UniPC on x0, with compensated predictions. Its plans have order + 1 rows, or with ratios max(order,
    3) + 1.

    Args:
        ratios: rho of each step, from `fewstep.literature.fits.compensation`; 1 leaves a prediction unchanged. The
            first two values are not used, since three predictions are not available yet. An empty list means 1 for all
            steps, which is UniPC.
        order: order of the predictor, 1 to 4.
        bh1, lower_order_final: as for `unipc`.
    """
    if ratios and len(ratios) != len(times) - 1:
        raise UserError(
            f"dc_solver was given {len(ratios)} ratios for {len(times) - 1} steps", "give one for each step"
        )
    if not 1 <= order <= 4:
        raise UserError(f"dc_solver has no order {order}", "choose 1 to 4")
    history: list[tuple[float, Lin]] = []  # pairs of the network's time and x0, newest first

    def compensate(i: int, s: Time, x0: Lin) -> Lin:
        nonlocal history
        history = [(s.network, x0), *history[:2]]
        if ratios and ratios[i] != 1 and len(history) == 3:
            at = ratios[i] * history[0][0] + (1 - ratios[i]) * history[1][0]
            moved = Lin({})
            for weight, (_, value) in zip(
                lagrange([t for t, _ in history], np.array([at]))[:, 0], history, strict=True
            ):
                moved = moved + float(weight) * value
            history[0] = (s.network, trace.store(moved))
        return history[0][1]

    return predict_and_correct(trace, times, order, bh1, False, lower_order_final, compensated=compensate)
