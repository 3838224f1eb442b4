"""Both types of plan: plans of continuous samples, and token plans. Both are tables of steps.

Callers may give either, or a reference to one (`plans.names.plan_reference`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.plans.errors import UserError
from fewstep.plans.guidance import describe
from fewstep.plans.names.plan_reference import FileReference, TextReference, parse_plan_text
from fewstep.plans.plan import Plan, Step, group_of, tensor_values
from fewstep.plans.shaping import Shaping, describe_shaping
from fewstep.plans.tokens.plan import USUAL, TokenPlan, TokenStep

AnyStep = Step | TokenStep
AnyPlan = Plan | TokenPlan
PlanReference = TextReference | AnyPlan  # a compiled plan refers to itself
PlanLike = str | Path | PlanReference
Made = TypeVar("Made", bound=AnyPlan)
Edges = Sequence[float] | Mapping[str, Sequence[float]]  # edges between range groups, for all steps or by network name


def parse_plan_reference(plan: PlanLike) -> PlanReference:
    """Return the reference of a caller's plan. References and compiled plans are returned unchanged.

    Raises UserError for a value of any other type, and for a text as `parse_plan_text` does.
    """
    if isinstance(plan, PlanReference):
        return plan
    if isinstance(plan, Path):
        return FileReference(plan)
    if isinstance(plan, str):
        return parse_plan_text(plan)
    fix = "give SOLVER:STEPS such as 'dpmpp_2m:8', or a plan's path"
    if isinstance(plan, list | tuple):
        fix = "call `sample_each`, which takes a plan for each sample"
    raise UserError(f"plan {plan!r} is not a plan", fix)


def times_of(plan: AnyPlan, step: AnyStep) -> NDArray[np.float64]:
    """Return the network's time at a step, or the times of all positions [positions]."""
    number = step.times if isinstance(step, Step) else None
    return np.array(step.time) if number is None else tensor_values(plan.tensors[number]).ravel()


def shaping_of(plan: AnyPlan) -> Shaping | None:
    """Return the shaping of a plan's steps, or None if no step has one. All steps with shaping have the same one. Token
    plans have none."""
    return next((step.shaping for step in plan.steps if isinstance(step, Step) and step.shaping is not None), None)


def check_compiled(plan: AnyPlan | str | Path, fix: str = "call sampler.sample", taker: str = "this") -> Plan:
    """Return the plan if it is a compiled plan of continuous samples.

    Raises UserError for a token plan, for the name of a plan, which only a sampler can compile, and for any other
    object. `taker` names the caller in the message, and `fix` is the fix for a token plan."""
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, AnyPlan):
        raise UserError(f"plan {plan.name!r} is for tokens, but {taker} takes continuous samples", fix)
    raise UserError(f"plan {plan!r} is not compiled", f"give sampler.compile({plan!r})")


def check_tokens(plan: AnyPlan) -> TokenPlan:
    """Return the plan if it is a token plan. Raises UserError for a plan of continuous samples."""
    if isinstance(plan, TokenPlan):
        return plan
    what = f"plan {plan.name!r} is for continuous samples, but this denoiser predicts tokens"
    raise UserError(what, f"use {USUAL}")


def plan_headline(plan: AnyPlan) -> str:
    """Describe a plan in one line: its name, guidance, evaluations and branches."""
    branches = sum(len(step.branches) for step in plan.steps)
    guidance = "" if plan.guidance is None else f", guidance {describe(plan.guidance)}"
    if isinstance(plan, TokenPlan):
        place = f"{list(plan.shape)} tokens of {plan.vocabulary} ids"
        return f"{plan.name} for {place}{guidance}: at most {len(plan.steps)} evaluations, {branches} branches"
    shaping, noise = shaping_of(plan), ", stochastic" if plan.is_stochastic else ""
    shaped = "" if shaping is None else f", {describe_shaping(shaping)}"
    return (
        f"{plan.name} for schedule {plan.schedule}, predicts {plan.prediction}{guidance}{shaped}{noise}: "
        f"{len(plan.steps)} evaluations, {branches} branches, {plan.rows} rows"
    )


def regroup(plan: Made, groups: Edges) -> Made:
    """Return the plan with its steps assigned to other range groups, or the plan itself if nothing changes."""
    edges = groups if isinstance(groups, Mapping) else {step.network: groups for step in plan.steps}
    wanted = [group_of(step.lam, edges[step.network]) if step.network in edges else step.group for step in plan.steps]
    if wanted == [step.group for step in plan.steps]:
        return plan
    pairs: Any = zip(plan.steps, wanted, strict=True)
    regrouped = tuple(msgspec.structs.replace(step, group=group) for step, group in pairs)
    return cast(Made, msgspec.structs.replace(cast(Any, plan), steps=regrouped))
