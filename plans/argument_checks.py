"""Checks of arguments that many functions take: a plan, options of a run along it, an integer."""

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.names.plan_reference import FileReference, TextReference, parse_plan_text
from fewstep.plans.plan import Plan

COMPILED = ("guidance", "shaping", "strength", "renoise")  # options that are compiled into a plan

PlanReference = TextReference | AnyPlan  # a compiled plan refers to itself
PlanLike = str | Path | PlanReference


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


def check_compiled(plan: AnyPlan | str | Path, fix: str = "call sampler.sample", taker: str = "this") -> Plan:
    """Return the plan if it is a compiled plan of continuous samples.

    Raises UserError for the name of a plan, which only a sampler can compile, for any other object, and for a token
    plan. `taker` names the caller in the message, and `fix` is the fix for a token plan."""
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, AnyPlan):
        raise UserError(f"plan {plan.name!r} is for tokens, but {taker} takes continuous samples", fix)
    raise UserError(f"plan {plan!r} is not compiled", f"give sampler.compile({plan!r})")


def refuse_options(others: Mapping[str, Any]) -> None:
    """Raise UserError for an option that a run does not have. The fix for a compile option says where to pass it."""
    for name in others:
        fix = f"compile the plan with it: sampler.compile(plan, {name}=...)" if name in COMPILED else "leave it out"
        raise UserError(f"this run has no option {name!r}", fix)


def check_integer(what: str, value: Any, low: int, high: int | None = None) -> int:
    """Return an integer of any integer type as an int. Raises UserError, which begins with `what` and the value, if it
    is not an integer from `low` to `high`, both included."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        raise UserError(f"{what} {value!r}", f"give a whole number from {low} {'up' if high is None else f'to {high}'}")
    return number
