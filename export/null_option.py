"""`fewstep export --null class=10`: the value that stands for "none", where a source does not say it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import msgspec

from fewstep.export.spec import Source
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import Condition

FIX = "write NAME=VALUE, as --null class=10: a condition's name, and a number"


def with_nulls(source: Source, texts: Sequence[str]) -> Source:
    """The source with these null values of its conditions, in the place of any that its spec has."""
    if not texts:
        return source
    conditions = {condition.name: condition for condition in source.spec.conditions}
    for text in texts:
        name, _, value = text.partition("=")
        if name not in conditions:
            has = f"; it has {', '.join(conditions)}" if conditions else ""
            raise UserError(f"--null {text!r}: {source.label} has no condition {name!r}{has}", FIX)
        conditions[name] = _with_null(conditions[name], value, text)
    spec = replace(source.spec, conditions=tuple(conditions.values()))
    given: Any = replace(cast(Any, source), spec=spec)
    return cast(Source, given)


def _with_null(condition: Condition, value: str, text: str) -> Condition:
    """A whole number at an end of the condition's range is no longer one of the values that users choose from."""
    try:
        null = int(value) if "int" in condition.dtype else float(value)
    except ValueError:
        kind = "whole number" if "int" in condition.dtype else "number"
        raise UserError(f"--null {text!r}: {value!r} is no {kind}", FIX) from None
    low, high = condition.low, condition.high
    chosen = "int" in condition.dtype and not (condition.shape or condition.labels or condition.typical)
    if chosen and low is not None and high is not None and low < high:
        low, high = low + (null == low), high - (null == high)
    return msgspec.structs.replace(condition, null=null, null_file=None, low=low, high=high)
