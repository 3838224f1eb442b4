"""Checks of arguments that many functions have: the options of a run along a plan, and integers in a range."""

import operator
from collections.abc import Mapping
from typing import Any

from fewstep.plans.errors import UserError

COMPILED = ("guidance", "shaping", "strength", "renoise")  # options that are compiled into a plan


def refuse_options(others: Mapping[str, Any]) -> None:
    """Raise UserError for options that a run does not have. For an option of `compile`, the fix says so."""
    for name in others:
        fix = f"compile the plan with it: sampler.compile(plan, {name}=...)" if name in COMPILED else "leave it out"
        raise UserError(f"this run has no option {name!r}", fix)


def as_integer(value: Any) -> int | None:
    """Return a value of any integer type as an int. Return None for other values and for booleans, which Python counts
    as integers: `seeds=[True]` is a mistake rather than seed 1."""
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_integer(what: str, value: Any, low: int, high: int | None = None) -> int:
    """Convert a value to an int (`as_integer`). Raises UserError, whose message begins with `what` and the value,
    if it is not an integer from `low` to `high`, both included."""
    number = as_integer(value)
    if number is None or number < low or (high is not None and number > high):
        raise UserError(f"{what} {value!r}", f"give a whole number from {low} {'up' if high is None else f'to {high}'}")
    return number
