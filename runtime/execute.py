"""The executor runs a plan's steps on numpy arrays; it is the only form of a step that the product runs.

Deployment uses float32; float64 is for tests and for measuring the cost of float32. Every row is made by
multiplications and additions in column order, elementwise, so a sample's bits do not depend on its batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fewstep.plans import shaping
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan, Row, Step, Term, array

Array = NDArray[np.floating]
StepNetwork = Callable[[int, Step, Array], Sequence[Array]]
Draws = Callable[[int], Array]

HOLD_DRAW = 0  # the noise of what is held: the draw that samples start from


@dataclass(frozen=True)
class Hold:
    """Part of the sample is known: where `mask` is 1 the state is kept at `value`, noised to the time of each step.

    Inpainting, or a robot's actions that are already under way. value: [B, *x_shape]; mask: from 0 to 1, broadcast
    against it.
    """

    value: Array
    mask: Array


@dataclass(frozen=True)
class StepState:
    """What one step saw and made. `before` and `after` are the rows of the state around it, `u` the network input."""

    index: int
    step: Step
    before: Sequence[Array]
    u: Array
    outputs: Sequence[Array]  # one per branch and head
    shaped: Array | None  # what the step's shaping made
    after: Sequence[Array]

    @property
    def x0(self) -> Array:
        """The predicted clean sample, after guidance and shaping: a preview."""
        made = [] if self.shaped is None else [self.shaped]
        return combine(self.step.x0, [*self.before, *self.outputs, *made], self.u.dtype)


def combine(row: Row, arrays: Sequence[Array], dtype: DTypeLike) -> Array:
    """sum_j row[j] * arrays[j]; zero coefficients are skipped (their arrays may hold anything)."""
    scalar: Any = np.dtype(dtype).type
    total: Array | None = None
    for coefficient, column in zip(row, arrays, strict=True):
        if coefficient != 0.0:
            term = column if coefficient == 1.0 else column * scalar(coefficient)
            total = term if total is None else total + term
    return np.zeros_like(arrays[0], dtype=dtype) if total is None else total


def make_rows(
    plan: Plan, table: Sequence[Row], terms: Sequence[Term], columns: Sequence[Array], dtype: DTypeLike
) -> list[Array]:
    """The rows of a state: each line of the table over the columns, then the terms whose coefficient is a tensor."""
    rows = [combine(row, columns, dtype) for row in table]
    for term in terms:
        tensor = array(plan.tensors[term.tensor]).astype(dtype)
        rows[term.row] = rows[term.row] + (tensor if term.column is None else tensor * columns[term.column])
    return rows


def begin(plan: Plan, draws: Draws, dtype: DTypeLike, given: Mapping[str, Array]) -> list[Array]:
    """The state before the first step."""
    columns = [np.asarray(given[name], dtype) for name in plan.given]
    columns += [np.asarray(draws(number), dtype) for number in plan.start_draws]
    return make_rows(plan, plan.start, plan.start_terms, columns, dtype)


def held_row(step: Step) -> tuple[int, float, float]:
    """The row that is x at a step, and alpha and sigma there. Raises UserError where nothing can be held."""
    if step.alpha is None or step.sigma is None:
        raise UserError("a plan of an older version cannot hold part of a sample", "compile it again")
    rows = [k for k, coefficient in enumerate(step.input) if coefficient != 0.0]
    if len(rows) != 1:
        raise UserError(
            f"the network's input at time {step.time:g} is made of {len(rows)} rows: x is none of them",
            "leave hold out, or use a plan whose network sees x",
        )
    return rows[0], step.alpha, step.sigma


def hold_row(step: Step, state: Sequence[Array], hold: Hold, noise: Array) -> list[Array]:
    """The state with its network input held where the mask says so, at the step's own time."""
    row, alpha, sigma = held_row(step)
    kind = state[0].dtype.type
    rows = list(state)
    held = kind(alpha) * hold.value + kind(sigma) * noise
    rows[row] = hold.mask * held + (1 - hold.mask) * rows[row]
    return rows


def advance(
    plan: Plan, index: int, state: Sequence[Array], u: Array, outputs: Sequence[Array], draws: Draws, dtype: DTypeLike
) -> StepState:
    """What step `index` makes of the state and the network's outputs."""
    step = plan.steps[index]
    outputs = [np.asarray(output, dtype) for output in outputs]
    columns = [*state, *outputs]
    shaped: Array | None = None
    if step.shaping is not None:
        shaped = shaping.apply(step.shaping, [combine(row, columns, dtype) for row in step.shaping_of])
        columns.append(shaped)
    columns += [np.asarray(draws(number), dtype) for number in step.draws]
    after = make_rows(plan, step.update, step.terms, columns, dtype)
    return StepState(index, step, state, u, outputs, shaped, after)


def execute(
    plan: Plan,
    network: StepNetwork,
    draws: Draws,
    dtype: DTypeLike = np.float32,
    given: Mapping[str, Array] | None = None,
    hold: Hold | None = None,
) -> Iterator[StepState]:
    """Run a plan, one `StepState` per evaluation.

    Args:
        network: `network(index, step, u)` -> one output per branch and head of the step, each of u's shape [B, ...].
        draws: `draws(number)` -> standard normal array [B, ...]; called once for each draw a step reads.
        given: the plan's given tensors [B, ...].
        hold: a part of the sample that is known.
    """
    state: Sequence[Array] = begin(plan, draws, dtype, given or {})
    noise = None if hold is None else np.asarray(draws(HOLD_DRAW), dtype)
    for index, step in enumerate(plan.steps):
        if hold is not None and noise is not None:
            state = hold_row(step, state, hold, noise)
        u = combine(step.input, state, dtype)
        made = advance(plan, index, state, u, network(index, step, u), draws, dtype)
        state = made.after
        yield made


def sample(
    plan: Plan,
    network: StepNetwork,
    draws: Draws,
    dtype: DTypeLike = np.float32,
    given: Mapping[str, Array] | None = None,
    hold: Hold | None = None,
) -> Array:
    """The finished sample [B, ...]."""
    return finish(plan, execute(plan, network, draws, dtype, given, hold), dtype, hold)


def finish(plan: Plan, states: Iterable[StepState], dtype: DTypeLike = np.float32, hold: Hold | None = None) -> Array:
    """The sample [B, ...] that a run's states lead to. Only the last is kept: a run may have hundreds."""
    (last,) = deque(states, maxlen=1)
    made = combine(plan.output, last.after, dtype)
    return made if hold is None else hold.mask * hold.value + (1 - hold.mask) * made
