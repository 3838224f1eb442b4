"""Branches of guidance whose texts differ in length: each is a call of its own."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from fewstep.plans.any_plan import AnyPlan, AnyStep
from fewstep.runtime.arrays import Arrays
from fewstep.runtime.sampling.feeds import BranchValues
from fewstep.runtime.sampling.step_call import Feeds, GraphCall, StepCall


@dataclass(frozen=True)
class SeparateBranches(StepCall):
    """The network calls of a plan's steps, with a call for each branch. `apart` returns the inputs except x of each
    branch, [B, ...]."""

    apart: Mapping[str, Feeds] = field(default_factory=dict)

    def split_feeds(self, index: int, step: AnyStep) -> tuple[Arrays, ...]:
        """Return the inputs except x [B, ...] of each branch of a step."""
        return tuple(self.apart[branch](index) for branch in step.branches)

    def graph_call(self, index: int, step: AnyStep, u: NDArray[Any], ports: Arrays | None = None) -> GraphCall:
        """Call the network of a step for each branch. The feeds and the other outputs are those of the last call."""
        made = []
        for branch in step.branches:
            call = StepCall(self.call, self.apart[branch], self.slots, self.named, self.on_call)
            whole: Any = step  # a step of either type
            made.append(call.graph_call(index, replace(whole, branches=(branch,)), u, ports))
        return made[-1]._replace(output=np.concatenate([result.output for result in made]))


def separate_branches(
    plan: AnyPlan, values_of: BranchValues, feeds_of: Callable[[AnyPlan], Feeds]
) -> dict[str, Feeds] | None:
    """Return the inputs of each branch, or None if the conditions of all branches have the same shapes, so that each
    step is one call."""
    if not _are_apart(plan, values_of):
        return None
    branches = _branches_of(plan)
    whole: Any = plan  # a plan of either type
    plans = {
        branch: replace(whole, steps=tuple(replace(step, branches=(branch,)) for step in whole.steps))
        for branch in branches
    }
    return {branch: feeds_of(own) for branch, own in plans.items()}


def _are_apart(plan: AnyPlan, values_of: BranchValues) -> bool:
    """Return True if the conditions of a plan's branches differ in shape."""
    first, *others = ({name: value.shape for name, value in values_of(branch).items()} for branch in _branches_of(plan))
    return any(shapes != first for shapes in others)


def _branches_of(plan: AnyPlan) -> list[str]:
    return list(dict.fromkeys(branch for step in plan.steps for branch in step.branches))
