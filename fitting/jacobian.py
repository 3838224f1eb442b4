"""The Jacobian of samples with respect to the free coefficients and times of a plan.
`fewstep.fitting.finite_differences` measures it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block
from fewstep.fitting.recurrence import Recurrence, build_plan
from fewstep.runtime.sampling.execute import Array, finish
from fewstep.runtime.sampling.sampler import Sampler

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Jacobian:
    """The derivatives of the samples of some seeds with respect to P free coefficients and times.

    columns: [seeds, P, elements], the derivatives, each multiplied by the `size` of its coefficient or time.
    samples, targets: [seeds, elements].

    Sums over elements are computed in float64, one seed at a time.
    """

    columns: Array
    samples: Array
    targets: Array

    @cached_property
    def residual(self) -> Float64:
        """The targets minus the samples, [seeds, elements]."""
        return np.asarray(self.targets.astype(np.float64) - self.samples)

    @cached_property
    def gram(self) -> Float64:
        """The inner products of the columns, [seeds, P, P]."""
        doubles = (column.astype(np.float64) for column in self.columns)
        return np.stack([matrix @ matrix.T for matrix in doubles])

    @cached_property
    def slope(self) -> Float64:
        """The inner products of the columns with the residual, [seeds, P]."""
        pairs = zip(self.columns, self.residual, strict=True)
        return np.stack([each.astype(np.float64) @ left for each, left in pairs])

    @cached_property
    def error(self) -> Float64:
        """The sum of the squared residual, [seeds]."""
        return np.asarray(np.square(self.residual).sum(axis=1))

    def broyden_update(self, step: Float64, samples: Array) -> "Jacobian":
        """Return the Jacobian that predicts `samples`, those after a step of the numbers, and that differs least from
        this one (Broyden 1965). `step` is in units of the sizes of the numbers."""
        samples = samples.reshape(self.samples.shape)
        surprise = samples.astype(np.float64) - self.samples - np.einsum("spd,p->sd", self.columns, step)
        share = (step / (step @ step))[:, None]
        columns = [(old + share * lacks).astype(np.float32) for old, lacks in zip(self.columns, surprise, strict=True)]
        return Jacobian(np.stack(columns), samples, self.targets)


def join_jacobians(parts: Sequence[Jacobian]) -> Jacobian:
    """Return the Jacobian of several blocks, in their order."""
    return Jacobian(
        np.concatenate([part.columns for part in parts]),
        np.concatenate([part.samples for part in parts]),
        np.concatenate([part.targets for part in parts]),
    )


def column_norms(sampler: Sampler, numbers: Recurrence, blocks: Sequence[Block]) -> Float64:
    """Return the root mean squares over rollouts for the `norms` of `free_numbers`."""
    plan, history, given = build_plan(numbers), numbers.history, len(numbers.nominal.given)
    squares = np.zeros((numbers.steps + 1, 1 + history + given))
    count = 0
    for block in blocks:
        states = list(block.run(plan, block.step_network(sampler, plan)))
        sample = finish(plan, states)
        count += sample.size
        for i, state in enumerate(states):
            columns = [state.before[0], state.x0, *state.before[1:]]
            squares[i] += [float(np.square(column.astype(np.float64)).sum()) for column in columns]
        squares[-1, 0] += float(np.square(sample.astype(np.float64)).sum())
    return np.asarray(np.sqrt(squares / count))
