"""Checks of arguments that many functions take: a compiled plan, options of a run along it, a whole number."""

import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.plans.any_plan import AnyPlan
from fewstep.plans.errors import UserError
from fewstep.plans.plan import Plan
from fewstep.plans.tokens.plan import USUAL, TokenPlan

COMPILED = ("guidance", "shaping", "strength", "renoise")  # into a plan


def check_compiled(plan: AnyPlan | str | Path, fix: str = "call sampler.sample", taker: str = "this") -> Plan:
    """The plan. Refuse the name of one where its numbers are needed and no sampler can compile it, anything else that
    is none, and one of tokens, which `taker` does not take."""
    if isinstance(plan, Plan):
        return plan
    if isinstance(plan, TokenPlan):
        raise UserError(f"plan {plan.name!r} is of tokens, and {taker} takes continuous samples", fix)
    raise UserError(f"plan {plan!r} is not compiled", f"give sampler.compile({plan!r})")


def check_tokens(plan: AnyPlan) -> TokenPlan:
    """The plan. UserError for one of numbers."""
    if isinstance(plan, TokenPlan):
        return plan
    what = f"plan {plan.name!r} is for continuous samples, and this denoiser predicts tokens"
    raise UserError(what, f"take {USUAL}")


def refuse_options(others: Mapping[str, Any]) -> None:
    """Refuse options that a run does not have. For options of compiling the fix says where they belong."""
    for name in others:
        fix = f"compile the plan with it: sampler.compile(plan, {name}=...)" if name in COMPILED else "leave it out"
        raise UserError(f"this run has no option {name!r}", fix)


def check_integer(what: str, value: Any, low: int, high: int | None = None) -> int:
    """A whole number from `low` to `high`, both included, of any integer type. The UserError begins with `what` and
    the value."""
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or number < low or (high is not None and number > high):
        raise UserError(f"{what} {value!r}", f"give a whole number from {low} {'up' if high is None else f'to {high}'}")
    return number
