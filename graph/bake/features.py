"""Inner features (feature caching) in a baked run: full steps write them to slots, and light steps read the slots.

The slots exist only within a run, so they are neither inputs nor outputs of the file. Since networks alternate from
step to step, such a run is written out step by step.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from fewstep.graph.bake.batch import RunBatch
from fewstep.graph.bake.step_alignment import branch_offset
from fewstep.graph.builder import Builder
from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.plan import LIGHT, Plan, Step
from fewstep.runtime.kinds.graph_entry import CARRIED, NEXT

Slot = tuple[tuple[str, ...], str]  # the branches of a slot, and the tensor [branches * B, ...] that it holds


@dataclass
class FeatureSlots:
    """The stored features of a baked run while it is being built. `slots` has the features after the steps added so
    far."""

    name: str
    slots: list[Slot | None] = field(default_factory=list)

    @property
    def input_port(self) -> str:
        """The input of the light network."""
        return CARRIED + self.name

    def add_read(self, into: Builder, batch: RunBatch, step: Step) -> str:
        """Add the nodes that combine the stored features for a light step, [branches * B, ...]. Return the name of the
        result."""
        (read,) = step.carry_in
        held = [
            (number, slot) for number, slot in zip(read.row, self.slots, strict=True) if slot is not None and number
        ]
        tensors = [
            _add_branches(into, batch, slot, step.branches, f"{self.name}_{at}") for at, (_, slot) in enumerate(held)
        ]
        return into.combine([number for number, _ in held], tensors, f"{self.name}_now")

    def write(self, step: Step, made: Mapping[str, str]) -> None:
        """Update the slots after a full step. `made` has the names of the tensors that its network returned."""
        before: list[Slot | None] = [*self.slots, (step.branches, made[NEXT + self.name])]
        for move in step.carry:
            (source,) = (slot for number, slot in zip(move.row, before, strict=True) if number)
            self.slots[move.slot] = source


def features_of(plan: AnyPlan) -> FeatureSlots | None:
    """Return the slots for features, still empty, of a plan with light steps. None for any other plan, even if one of
    its networks has the name of the light network."""
    if not isinstance(plan, Plan) or not any(step.network == LIGHT and step.carry_in for step in plan.steps):
        return None
    (bank,) = plan.banks
    if any(sum(map(bool, move.row)) != 1 or max(move.row) != 1 for step in plan.steps for move in step.carry):
        what = f"plan {plan.name!r} combines or scales the stored tensors of {bank.name!r}"
        raise UserError(what, "run the bundle: a baked file cannot do that")
    return FeatureSlots(bank.name, [None] * bank.slots)


def _add_branches(into: Builder, batch: RunBatch, slot: Slot, branches: tuple[str, ...], name: str) -> str:
    """Add a Slice that selects `branches` from a slot that stores several, unless it stores exactly these. Return the
    name of the result. Raises UserError if they are not consecutive in the slot."""
    there, tensor = slot
    if there == branches:
        return tensor
    if (first := branch_offset(branches, there)) < 0:
        what = (
            f"a light step reads the branches {', '.join(branches)}, which are not consecutive in this order among the "
            f"stored branches {', '.join(there)}"
        )
        raise UserError(what, "run the bundle: a baked file cannot do that")
    ends = (batch.times(first), batch.times(first + len(branches)))
    axis = into.constant(np.array([0], np.int64), f"{name}_axis")
    return into.node("Slice", (tensor, *ends, axis), f"{name}_branches")
