"""Checks used by several transforms: of the noise levels of a plan, and of the state row that starts as noise."""

import numpy as np

from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.schedule import Time


def noise_levels(plan: Plan) -> tuple[Time, ...]:
    """Return the times of a plan's evaluations. Raises UserError for a plan of an older version, which does not store
    noise levels."""
    known = [(step.time, step.alpha, step.sigma) for step in plan.steps]
    times = tuple(Time(t, alpha, sigma) for t, alpha, sigma in known if alpha is not None and sigma is not None)
    if len(times) < len(known):
        raise UserError(f"plan {plan.name!r} is of an older version, without noise levels", "compile it again")
    return times


def check_start(plan: Plan) -> int:
    """Return the state row that starts as noise. Raises UserError for a plan that does not start from noise only."""
    start = np.array(plan.start)
    if plan.given or plan.start_terms or start.shape[1] != 1 or np.count_nonzero(start) != 1:
        raise UserError(f"plan {plan.name!r} does not start from noise only", "use a plan that does, such as ddim:8")
    return int(start.argmax())
