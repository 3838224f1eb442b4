"""Values at the edges of a condition's domain, which random draws do not reach: a mask of zeros, a single key."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fewstep.graph.graph import Array
from fewstep.runtime.bundle.conditions import random_range
from fewstep.runtime.bundle.manifest import Condition

MASK = (0.0, 1.0)  # (low, high) of a float condition that may be a mask


@dataclass(frozen=True)
class ConditionEdge:
    """A value [*shape] of a condition, and its description, such as "mask all 0"."""

    condition: Condition
    value: Array
    text: str


def edges(condition: Condition) -> Iterator[ConditionEdge]:
    """Yield extreme values of a condition: all elements are low, all are high, only the first is high, or only the last
    is high.

    Conditions of integers or booleans have edges, and floats from 0 to 1, which may be masks. Low and high are the ends
    of the range that verification draws from.
    """
    kind = np.dtype(condition.dtype).kind
    is_float_mask = kind == "f" and (condition.low, condition.high) == MASK
    drawn = MASK if is_float_mask else None if kind == "f" else random_range(condition)
    if drawn is None:
        return
    low, high = (np.array(np.broadcast_to(end, condition.shape), condition.dtype) for end in drawn)
    if np.array_equal(low, high):
        return
    every = "all " if condition.shape else ""
    yield ConditionEdge(condition, low, f"{condition.name} {every}{_number(low, 'low')}")
    yield ConditionEdge(condition, high, f"{condition.name} {every}{_number(high, 'high')}")
    if low.size > 1:
        for place, position in ((0, "first"), (low.size - 1, "last")):
            single = low.copy()
            single.flat[place] = high.flat[place]
            text = f"{condition.name} {_number(high, 'high')} at the {position} element alone"
            yield ConditionEdge(condition, single, text)


def _number(end: Array, name: str) -> str:
    """Return the number that all elements of an end have; the end's name if they differ."""
    if np.any(end != end.flat[0]):
        return name
    return str(end.flat[0]) if end.dtype == bool else f"{end.flat[0]:g}"
