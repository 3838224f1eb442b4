"""The scheduler of a recorded pipeline, as its bundle stores it, and its plans."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fewstep.plans.configs.diffusers import plan_from_scheduler_config
from fewstep.plans.configs.recorded import read_steps
from fewstep.plans.configs.recorded_steps import compile_recorded_steps
from fewstep.plans.configs.schedules import Described
from fewstep.plans.guidance import Guidance
from fewstep.plans.plan import Plan
from fewstep.plans.spec import DenoiserFacts

Draw = TypeVar("Draw")


@dataclass(frozen=True)
class PipelineScheduler:
    """The config of a scheduler, with the noise schedule, the prediction and the number of outputs of its network."""

    config: Mapping[str, Any]
    described: Described
    heads: int = 1

    def plan(self, steps: int, guidance: Guidance | None, x_shape: Sequence[int]) -> Plan:
        """Return the plan that `scheduler:STEPS` names. Raises UserError if there is none."""
        stored = read_steps(self.config)
        if stored is None:
            return plan_from_scheduler_config(self.config, steps=steps, guidance=guidance, x_shape=x_shape)
        facts = DenoiserFacts(*self.described, heads=self.heads)
        return compile_recorded_steps(stored, steps, facts, self.config, guidance)

    def select_draws(self, draws: Sequence[Draw], steps: int) -> Sequence[Draw]:
        """Return those noise draws of a recorded run that the plan reads. A scheduler may draw noise that its steps do
        not use."""
        stored = read_steps(self.config)
        if stored is None or steps not in stored:
            return draws
        return [draws[number] for number in stored[steps].draws if number < len(draws)]
