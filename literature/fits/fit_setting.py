"""The inputs of the fits from the literature: a body, the teacher's samples for some seeds, and the best plan without a
fit."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from fewstep.fitting.blocks import Block
from fewstep.fitting.rollouts import FitSampler
from fewstep.fitting.start_plans import find_best_start
from fewstep.fitting.teacher_path import teacher_states
from fewstep.plans.compile import bind_plan_name, trace_plan
from fewstep.plans.errors import UserError
from fewstep.plans.guidance import Guidance
from fewstep.plans.names.plan_name import PlanName
from fewstep.plans.plan import Plan, Step
from fewstep.plans.prediction import input_scale
from fewstep.plans.schedule import NoiseSchedule, Time
from fewstep.plans.spec import DenoiserFacts
from fewstep.plans.tracer import Solver
from fewstep.runtime.sampling.execute import Array, StepState

SCORED = 3  # blocks


@dataclass(frozen=True)
class FitSetting:
    """The input of a fit.

    rolled: its body runs the plan, and its reference runs the teacher in float32.
    nominal: the best plan without a fit, SOLVER:STEPS@GRID. A fitted plan has the same number of evaluations.
    blocks: seeds with the teacher's samples. The first `SCORED` of them are used to compare plans.
    groups: lambdas that separate the body's range groups.
    """

    rolled: FitSampler
    denoiser: DenoiserFacts
    guidance: Guidance | None
    nominal: Plan
    teacher: Plan
    blocks: Sequence[Block]
    groups: Sequence[float] = ()

    @cached_property
    def plan_name(self) -> PlanName:
        """The solver and the grid of the nominal plan."""
        return bind_plan_name(self.nominal.name, self.denoiser)

    @cached_property
    def schedule(self) -> NoiseSchedule:
        return NoiseSchedule(self.denoiser.schedule)

    @property
    def evaluations(self) -> int:
        return len(self.nominal.steps)

    def times(self, steps: int) -> tuple[Time, ...]:
        """Return the times of `steps` steps on the nominal plan's grid, including the end."""
        return self.plan_name.grid(self.schedule, steps)

    def compile(self, solver: Solver, times: Sequence[Time], name: str) -> Plan:
        return trace_plan(name, solver, times, self.denoiser, self.guidance, groups=self.groups)

    def states(self, plan: Plan) -> list[list[StepState]]:
        """Return the states of a plan's rollouts, one list for each block."""
        return [list(block.run(plan, block.step_network(self.rolled.sampler, plan))) for block in self.blocks]

    def teacher_states(self, steps: Sequence[Step]) -> list[NDArray[np.float64]]:
        """Return the teacher's x [seeds, elements] at each step, and its sample at the end, for all blocks."""
        runs = [teacher_states(self.rolled.reference, self.teacher, block, steps) for block in self.blocks]
        return [np.concatenate(states) for states in zip(*runs, strict=True)]

    def x(self, state: StepState) -> Array:
        """Return x [seeds, *x_shape] of a state, before it is scaled for the network."""
        step = state.step
        assert step.alpha is not None and step.sigma is not None  # true of plans that are compiled here
        time = Time(step.time, step.alpha, step.sigma)
        return state.u / np.float32(input_scale(self.denoiser.prediction, time, self.denoiser.schedule))

    def quality(self, plan: Plan) -> float | None:
        """Return the mean PSNR between a plan's samples and the teacher's, in dB; None if the samples are not
        finite."""
        (qualities,) = self.rolled.try_plans([plan], self.blocks[:SCORED])
        return None if qualities is None else float(qualities.mean())

    def best(self, makes: Iterable[Callable[[], Plan]]) -> Plan:
        """Return the best of the plans that can be compiled. If none can, raises the UserError of the last one. Also
        raises UserError if no plan has finite samples."""
        plans, error = list[Plan](), UserError("there is no plan to choose from", "begin with another plan")
        for make in makes:
            try:
                plans.append(make())
            except UserError as reason:
                error = reason
        if not plans:
            raise error
        return find_best_start(self.rolled, plans, self.blocks[:SCORED])
