"""A float32 run along a plan on a batch of seeds: the reference for comparisons in calibration, fits and figures.

Any network with the executor's interface can run from the same noise, and its samples can be compared.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.end_quality import EndQuality, compare_samples
from fewstep.measure.rollouts.metrics import psnr
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.plans.plan import Plan
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execute import Array, StepNetwork, StepState, combine, finish
from fewstep.runtime.sampling.slots import CarryingNetwork


@dataclass(frozen=True)
class ReferenceRun:
    """The states of float32 along a plan, for the seeds of a batch. Created by `run_reference`."""

    plan: Plan
    batch: SeedBatch
    states: tuple[StepState, ...]

    @property
    def sample(self) -> Array:
        """The finished samples, [seeds, *x_shape]."""
        return self.final_samples(self.states)

    def final_samples(self, states: Sequence[StepState]) -> Array:
        """Return the finished samples of a run along the plan."""
        return finish(self.plan, states[-1:])

    def decibels(self, states: Sequence[StepState]) -> NDArray[np.float64]:
        """Return the PSNR [seeds] in dB of a run's samples against float32's."""
        return psnr(self.final_samples(states), self.sample)

    def quality(self, states: Sequence[StepState]) -> EndQuality:
        """Return the quality of another run's samples, compared with the samples of this float32 run from the same
        seeds."""
        return compare_samples([(self.final_samples(states), self.sample)], f"float32, {self.plan.name}")

    def next_x(self, state: StepState) -> Array:
        """Return x after a step, as the next step reads it; the sample after the last step."""
        later = self.plan.steps[state.index + 1 :]
        return combine(later[0].input if later else self.plan.output, state.after, np.float32)


def run_reference(
    plan: Plan, batch: SeedBatch, network: StepNetwork | CarryingNetwork, progress: Progress = SILENT
) -> ReferenceRun:
    """Run float32 on a batch. Raises UserError if a state is not finite."""
    states: list[StepState] = []
    for state in batch.run_finite(plan, network):
        states.append(state)
        progress("steps of float32", len(states), len(plan.steps))
    return ReferenceRun(plan, batch, tuple(states))
