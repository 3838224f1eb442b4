"""Plans of numbers and plans of tokens: both are a table of steps, and say what they were compiled for."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.plan import Plan, Step, group_of, tensor_values
from fewstep.plans.shaping import Shaping
from fewstep.plans.tokens.plan import TokenPlan, TokenStep

AnyStep = Step | TokenStep
AnyPlan = Plan | TokenPlan
Made = TypeVar("Made", bound=AnyPlan)
Edges = Sequence[float] | Mapping[str, Sequence[float]]  # between range groups: of all steps, or of networks by name


def times_of(plan: AnyPlan, step: AnyStep) -> NDArray[np.float64]:
    """The network's time at a step, or those of all positions [positions]."""
    number = step.times if isinstance(step, Step) else None
    return np.array(step.time) if number is None else tensor_values(plan.tensors[number]).ravel()


def shaping_of(plan: AnyPlan) -> Shaping | None:
    """That of its steps, of which some may have none, as all of a token plan do."""
    return next((step.shaping for step in plan.steps if isinstance(step, Step) and step.shaping is not None), None)


def regroup(plan: Made, groups: Edges) -> Made:
    """The same plan with its steps assigned to other lambda groups: itself where they are in those."""
    edges = groups if isinstance(groups, Mapping) else {step.network: groups for step in plan.steps}
    wanted = [group_of(step.lam, edges[step.network]) if step.network in edges else step.group for step in plan.steps]
    if wanted == [step.group for step in plan.steps]:
        return plan
    pairs: Any = zip(plan.steps, wanted, strict=True)
    regrouped = tuple(msgspec.structs.replace(step, group=group) for step, group in pairs)
    return cast(Made, msgspec.structs.replace(cast(Any, plan), steps=regrouped))
