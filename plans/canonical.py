"""Convert the fields of a caller's `Clip`, `Cfg` or similar value to their declared types."""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from fewstep.plans.errors import UserError

T = TypeVar("T", bound=msgspec.Struct)


def canonical(value: T, problem: Callable[[T], str | None], fix: str) -> T:
    """The value with its fields as declared: 2.0 for 2, a tuple for a list, Python's numbers for numpy's.

    Python checks nothing when a class is made, and a plan with a list in it would differ from the plan of its file.
    Raises UserError, which names the field, for any other value, and for numbers that have a `problem`.
    """
    try:
        made = msgspec.convert(msgspec.to_builtins(value, enc_hook=_plain), type(value))
    except (msgspec.ValidationError, TypeError) as error:
        raise UserError(f"{value}: {str(error).lower()}", fix) from None
    if wrong := problem(made):
        raise UserError(f"{made} {wrong}", fix)
    return made


def _plain(value: Any) -> Any:
    """A number or array of numpy (or of a framework that is like it) in Python's own types."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"{value!r} is no number")
    return value.tolist()
