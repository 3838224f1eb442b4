"""The executor: the reference form of a plan's step, on numpy arrays.

float32 is what deployment uses; float64 is for tests and for measuring what float32 costs. Every row is made by
multiplications and additions in column order, elementwise, so a sample's bits do not depend on its batch.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fewstep.runtime.plan import Plan, Step
from fewstep.runtime.rows import Row

Array = NDArray[np.floating]
Network = Callable[[int, Step, Array], Sequence[Array]]
Draws = Callable[[int], Array]


@dataclass(frozen=True)
class StepState:
    """What one step saw and made. `before` and `after` are the rows of the state around it, `u` the network input."""

    index: int
    step: Step
    before: Sequence[Array]
    u: Array
    outputs: Sequence[Array]  # one per branch
    after: Sequence[Array]

    @property
    def x0(self) -> Array:
        """The predicted clean sample after guidance, before clipping: a preview."""
        return combine(self.step.x0, [*self.before, *self.outputs], self.u.dtype)


def combine(row: Row, arrays: Sequence[Array], dtype: DTypeLike) -> Array:
    """sum_j row[j] * arrays[j]; zero coefficients are skipped (their arrays may hold anything)."""
    scalar: Any = np.dtype(dtype).type
    total: Array | None = None
    for coefficient, array in zip(row, arrays, strict=True):
        if coefficient != 0.0:
            term = array if coefficient == 1.0 else array * scalar(coefficient)
            total = term if total is None else total + term
    return np.zeros_like(arrays[0], dtype=dtype) if total is None else total


def execute(plan: Plan, network: Network, draws: Draws, dtype: DTypeLike = np.float32) -> Iterator[StepState]:
    """Run a plan, one `StepState` per evaluation.

    Args:
        network: `network(index, step, u)` -> one output per branch of the step, each of u's shape [B, ...].
        draws: `draws(number)` -> standard normal array [B, ...]; called once for each draw a step reads.
    """
    noise = [np.asarray(draws(number), dtype) for number in plan.start_draws]
    state: Sequence[Array] = [combine(row, noise, dtype) for row in plan.start]
    for index, step in enumerate(plan.steps):
        u = combine(step.input, state, dtype)
        outputs = [np.asarray(output, dtype) for output in network(index, step, u)]
        columns = [*state, *outputs]
        if step.clip is not None:
            columns.append(np.clip(combine(step.x0, columns, dtype), step.clip.low, step.clip.high))
        columns += [np.asarray(draws(number), dtype) for number in step.draws]
        before, state = state, [combine(row, columns, dtype) for row in step.update]
        yield StepState(index, step, before, u, outputs, state)


def sample(plan: Plan, network: Network, draws: Draws, dtype: DTypeLike = np.float32) -> Array:
    """The finished sample [B, ...]."""
    return finish(plan, execute(plan, network, draws, dtype), dtype)


def finish(plan: Plan, states: Iterable[StepState], dtype: DTypeLike = np.float32) -> Array:
    """The sample [B, ...] that a run's states lead to. Only the last is kept: a run may have hundreds."""
    (last,) = deque(states, maxlen=1)
    return combine(plan.output, last.after, dtype)
