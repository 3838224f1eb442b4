"""Numbers that peft's configuration gives layers by regular expressions: `alpha_pattern` and `rank_pattern`."""

import re
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from fewstep.plans.errors import UserError

# The expressions that are matched: no group is repeated, and the numbers of repetitions and choices, and the length of
# a name, are limited. Matching any other may never end, and a file may come from anyone.
SIMPLE = re.compile(r"\^?(?:[\w.|*+?-]|\\[.dw-]|\[\^?[\w.-]+\]|\((?!\?)|\)(?![*+?]))+\$?")
REPETITIONS, CHOICES, LONGEST = 3, 4, 128
LARGEST = 1e6  # upper limit of a number in a configuration; larger ones are damage

Numbers = Mapping[str, float | None]


def read_pattern(name: str, field: str, fields: Mapping[str, Any], layers: Collection[str]) -> Numbers:
    """Return a field of the configuration of file `name` that maps expressions to numbers, for its layers.

    Raises UserError for an expression that is not matched, and ValueError for a damaged field.
    """
    numbers = dict(fields.get(field) or {})
    for key in numbers:
        try:
            _compile(key)
        except re.error as error:
            raise ValueError(f"{field} has {key!r:.40}, which is not a regular expression: {error}") from error
        is_long = any(sign in key for sign in "*+") and any(len(layer) > LONGEST for layer in layers)
        if is_long or not is_simple(key):
            what = f"{name}: its {field} has {key!r:.40}, a regular expression that may take too long to match"
            raise UserError(what, f"name the layers in {field} instead")
    return {key: read_number(key, number) for key, number in numbers.items()}


def is_simple(key: str) -> bool:
    """Return whether the time to match an expression is limited."""
    repetitions, choices = (sum(map(key.count, signs)) for signs in ("*+", "?|"))
    return SIMPLE.fullmatch(key) is not None and repetitions <= REPETITIONS and choices <= CHOICES


def find_number(numbers: Numbers, names: Collection[str]) -> float | None:
    """Return the number of the first key that matches one of a layer's names or the end of it after a dot, as peft's
    get_pattern_key finds it; None if there is none."""
    matches = (number for key, number in numbers.items() if any(map(_compile(key).match, names)))
    return next(matches, None)


@cache
def _compile(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def read_number(name: str, value: object) -> float | None:
    """Return a number of the configuration, or None if it is missing. Raises ValueError for anything else."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= LARGEST:
        raise ValueError(f"{name} is {value!r:.20}")
    return float(value)
