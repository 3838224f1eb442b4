"""How samples change with each free number, by finite differences on the deployed network.

A number of step i leaves all earlier steps as they are. Its column therefore costs the rest of the rollout alone, and a
row of the last step costs no call.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block, resume, run, sample_of, told_apart
from fewstep.fitting.free import Number, moved
from fewstep.fitting.recurrence import Recurrence, plan_of
from fewstep.plans.plan import Step
from fewstep.runtime.execute import Array, StepNetwork, StepState
from fewstep.runtime.sampler import Sampler

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Sensitivity:
    """Of a block's samples, in the numbers' sizes: everything that a step of least squares needs, seed by seed.

    gram: [seeds, P, P], of the columns. slope: [seeds, P], columns times residual. error: [seeds], of the residual.
    Residuals are target - sample; all are sums over the elements of a sample, in float64.
    """

    gram: Float64
    slope: Float64
    error: Float64


def sensitivity(sampler: Sampler, numbers: Recurrence, free: Sequence[Number], block: Block) -> Sensitivity:
    """The columns of all free numbers on one block."""
    plan = plan_of(numbers)
    nudged = numbers.told.copy()
    for number in free:
        if number.kind == "told":
            nudged[number.step] += number.size
    calls = told_apart(plan, nudged)
    network = block.network(sampler, calls)
    states = run(plan, block, network)
    base = sample_of(plan, states)
    columns = [_column(numbers, number, states, block, network, len(plan.steps)) - base for number in free]
    flat = np.stack(columns, axis=1).reshape(len(base), len(free), -1).astype(np.float64)
    residual = (block.taught.astype(np.float64) - base).reshape(len(base), -1)
    return Sensitivity(
        gram=np.stack([each @ each.T for each in flat]),
        slope=np.stack([each @ left for each, left in zip(flat, residual, strict=True)]),
        error=np.square(residual).sum(axis=1),
    )


def _column(
    numbers: Recurrence, number: Number, states: Sequence[StepState], block: Block, network: StepNetwork, steps: int
) -> Array:
    """The sample with one number moved by its size."""
    changed = plan_of(moved(numbers, [number], np.array([number.size])))
    at = states[number.step]

    def call(index: int, step: Step, u: Array) -> Sequence[Array]:
        place = index + steps if number.kind == "told" and index == number.step else index
        return network(place, step, u)

    known = None if number.calls_its_step else at.outputs
    return sample_of(changed, resume(changed, number.step, at.before, block, call, known))


def join(parts: Sequence[Sensitivity]) -> Sensitivity:
    """Those of several blocks, in their order."""
    return replace(
        parts[0],
        gram=np.concatenate([part.gram for part in parts]),
        slope=np.concatenate([part.slope for part in parts]),
        error=np.concatenate([part.error for part in parts]),
    )


def norms(sampler: Sampler, numbers: Recurrence, blocks: Sequence[Block]) -> Float64:
    """Root mean squares as `free_numbers` takes them."""
    plan, history, given = plan_of(numbers), numbers.history, len(numbers.nominal.given)
    squares = np.zeros((numbers.steps + 1, 1 + history + given))
    count = 0
    for block in blocks:
        states = run(plan, block, block.network(sampler, plan))
        count += sample_of(plan, states).size
        for i, state in enumerate(states):
            kept = [state.before[0], state.x0, *state.before[1:]]
            squares[i] += [float(np.square(each.astype(np.float64)).sum()) for each in kept]
        squares[-1, 0] += float(np.square(sample_of(plan, states).astype(np.float64)).sum())
    return np.asarray(np.sqrt(squares / count))
