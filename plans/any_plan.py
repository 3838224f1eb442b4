"""Functions for both types of plan, of continuous samples and of tokens. Both are tables of steps."""

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
Edges = Sequence[float] | Mapping[str, Sequence[float]]  # between range groups, for all steps or by network name


def times_of(plan: AnyPlan, step: AnyStep) -> NDArray[np.float64]:
    """Return the network's time at a step, or the times of all positions [positions]."""
    number = step.times if isinstance(step, Step) else None
    return np.array(step.time) if number is None else tensor_values(plan.tensors[number]).ravel()


def shaping_of(plan: AnyPlan) -> Shaping | None:
    """Return the shaping of a plan's steps, or None. Single steps may have none, and token plans have none."""
    return next((step.shaping for step in plan.steps if isinstance(step, Step) and step.shaping is not None), None)


def regroup(plan: Made, groups: Edges) -> Made:
    """Return the plan with its steps assigned to other range groups, or the plan itself if nothing changes."""
    edges = groups if isinstance(groups, Mapping) else {step.network: groups for step in plan.steps}
    wanted = [group_of(step.lam, edges[step.network]) if step.network in edges else step.group for step in plan.steps]
    if wanted == [step.group for step in plan.steps]:
        return plan
    pairs: Any = zip(plan.steps, wanted, strict=True)
    regrouped = tuple(msgspec.structs.replace(step, group=group) for step, group in pairs)
    return cast(Made, msgspec.structs.replace(cast(Any, plan), steps=regrouped))
