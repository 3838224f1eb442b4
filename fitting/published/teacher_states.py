"""Where a teacher's trajectory is at the times of a plan of few steps, between two of the teacher's own."""

from collections.abc import Sequence
from math import exp, isfinite

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block, flat, run
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.execute import StepState
from fewstep.runtime.sampler import Sampler


def states_at(sampler: Sampler, teacher: Plan, block: Block, steps: Sequence[Step]) -> list[NDArray[np.float64]]:
    """x [seeds, elements] where each of the steps is. `sampler` is of the teacher's body."""
    check_states(teacher)
    known = run(teacher, block, block.network(sampler, teacher))
    return [_between(known, step) for step in steps]


def check_states(teacher: Plan) -> None:
    """Raises UserError for plans whose x is more than alpha x0 + sigma noise."""
    if teacher.given or any(step.alpha is None or step.sigma is None for step in teacher.steps):
        what = f"the states of the teacher {teacher.name} have other parts than x0 and noise"
        raise UserError(what, "choose another --method")


def _between(known: Sequence[StepState], step: Step) -> NDArray[np.float64]:
    """x at a step: sigma / sigma_i x_i + sigma int e^l x0(l) dl from lambda_i on, with x0 linear in lambda."""
    lam = _lam(step)
    i = max(j for j, state in enumerate(known) if j == 0 or _lam(state.step) <= lam)
    here = known[i]
    assert step.alpha is not None and step.sigma is not None and here.step.sigma is not None
    x, p = _x(here), flat(here.x0)
    h = lam - _lam(here.step) if isfinite(_lam(here.step)) else np.inf
    made = step.sigma / here.step.sigma * x + step.alpha * (1 - exp(-h)) * p
    if i + 1 < len(known) and isfinite(h):
        whole = _lam(known[i + 1].step) - _lam(here.step)
        made += step.alpha * (h - 1 + exp(-h)) / whole * (flat(known[i + 1].x0) - p)
    return np.asarray(made)


def _lam(step: Step) -> float:
    return float(step.lam) if step.lam is not None else float("-inf")


def _x(state: StepState) -> NDArray[np.float64]:
    """x at a state: its network sees one row, scaled."""
    (row,) = [row for row, number in enumerate(state.step.input) if number]
    return flat(state.before[row])
