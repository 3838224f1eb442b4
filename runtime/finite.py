"""Report an overflow as one error that names its step."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import describe
from fewstep.plans.plan import Plan, Step
from fewstep.runtime.execute import Hold, StepState, finish

OUTPUT = "the denoiser's output"


def finite_states(states: Iterator[StepState], plan: Plan) -> Iterator[StepState]:
    """The states, as long as they are finite."""
    while True:
        with np.errstate(all="ignore"):
            state = next(states, None)
        if state is None:
            return
        check_finite_state(state, plan)
        yield state


def finite_sample(plan: Plan, states: Iterable[StepState], hold: Hold | None = None) -> NDArray[np.float32]:
    """The sample that a run's states lead to, as long as it is finite."""
    with np.errstate(all="ignore"):
        x = finish(plan, states, hold=hold).astype(np.float32, copy=False)
    check_finite(x, "the sample", len(plan.steps) - 1, plan.steps[-1], plan)
    return x


def check_finite_state(state: StepState, plan: Plan) -> None:
    """Raises UserError if the state after a step holds a number that is not finite, and says whether the denoiser made
    it. Rows from before the step are known. What the denoiser makes is in the rows, unless the step shapes it or
    leaves a branch unread, as rk4 does with CFG++."""
    known, first, update = {id(row) for row in state.before}, len(state.before), state.step.update
    unread = [made for k, made in enumerate(state.outputs, first) if not any(row[k] for row in update)]
    if state.shaped is None and all(id(row) in known or is_finite(row) for row in [*state.after, *unread]):
        return
    for output in state.outputs:
        check_finite(output, OUTPUT, state.index, state.step, plan)
    for row in state.after:
        check_finite(row, "the sample", state.index, state.step, plan)


def check_finite(array: NDArray[Any], what: str, index: int, step: Step, plan: Plan) -> None:
    """Raises UserError, which names the step, if the array holds a number that is not finite."""
    if not is_finite(array):
        weight = "" if plan.guidance is None else f" with guidance {describe(plan.guidance)}"
        raise UserError(
            f"{what} is not finite at step {index + 1} of {len(plan.steps)} (time {step.time:g}) "
            f"of plan {plan.name}{weight}",
            "check weights and guidance, or compare with precision float32",
        )


def is_finite(array: NDArray[Any]) -> bool:
    """Whether all numbers are."""
    return bool(np.logical_and.reduce(np.isfinite(array), axis=None))
