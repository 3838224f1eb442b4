"""Check whether null values of conditions stand for no condition, or for a value of real data."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.spec.reading_errors import RIGHT, ErrorsByLam, score_errors

LEAST_COST = 0.25  # share of the data's variance, summed over times; below it, null values are not judged
NULL_COST = 0.55  # largest share for a right null value: the mean of the data is half as far as other samples
LEAST_COST_IN_DATA = 0.1  # the same for null values that samples of the data have
# A right null value finds the values of a sample in x at the clean end, where its share falls to 0. That of a class
# near the mean of the data stays at half.
CLEAN_COST = 0.25
LEAST_COST_AT_TIME = 0.05  # share of the cost of all times; below it, the share at a time is not judged
ANOTHER = "null is another value"
UNTESTED = "its null values are right"


def check_nulls(
    errors_of: Callable[[ConditionRecords], ErrorsByLam],
    conditions: ConditionRecords,
    nulls: ConditionRecords,
    rows: NDArray[Any],
) -> tuple[str, str]:
    """Return (mistake, unknown) as text: the first if null values are values of real data, the second if it cannot
    tell.

    errors_of: a function from conditions to the errors of `rows`.

    A right null value denoises as the mean over all values does: it raises the errors half as much as the values of
    other samples do, and less the less noise there is. A null value that samples of the file have is a value of real
    data, unless they are unlabelled.
    """
    with_nulls, errors = errors_of({**conditions, **nulls}), errors_of(conditions)
    if score_errors(with_nulls) > RIGHT:
        return f"with the null values of its conditions it does not denoise: {ANOTHER}", ""
    added = _subtract(with_nulls, errors)
    others, expected = _exchange_conditions({name: conditions[name] for name in nulls}, rows)
    costs = np.zeros_like(added)
    if expected:
        costs = expected * _subtract(errors_of({**conditions, **others}), errors)
    cost = float(costs.sum())
    is_far, in_data = added.sum() > NULL_COST * cost, _describe_null_in_data(conditions, nulls)
    if is_far and in_data and cost > LEAST_COST_IN_DATA:
        return f"{in_data}, and it denoises the others worse: {ANOTHER}", ""
    if is_far and cost > LEAST_COST:
        return f"with the null values of its conditions it does not denoise: {ANOTHER}", ""
    if in_data:
        return "", f"whether {in_data} because they are unlabelled, or because it is a class"
    if cost <= LEAST_COST:
        return "", f"whether {UNTESTED}, since the conditions hardly change the errors"
    judged = costs > LEAST_COST_AT_TIME * cost
    if not np.any(added[judged] < CLEAN_COST * costs[judged]):
        return "", f"whether {UNTESTED}: a class near the mean of the data would denoise as they do"
    return "", ""


def _subtract(errors: ErrorsByLam, others: ErrorsByLam) -> NDArray[np.float64]:
    """Return the differences of the errors at each time."""
    return np.array([errors[lam].error - others[lam].error for lam in others])


def _describe_null_in_data(conditions: ConditionRecords, nulls: ConditionRecords) -> str:
    """Return, as text, how many samples have the null value of a condition; "" if none has."""
    for name, null in nulls.items():
        values = conditions[name].reshape(len(null), -1)
        if count := int(np.all(values == null.reshape(len(null), -1), axis=1).sum()):
            number = f" {null.flat[0]:g}" if np.all(null == null.flat[0]) else ""
            return f"null{number} of {name!r} is the value of {count} of {len(null)} samples"
    return ""


def _exchange_conditions(conditions: ConditionRecords, rows: NDArray[Any]) -> tuple[ConditionRecords, float]:
    """Return conditions in which these rows have the values of other rows, and a correction factor for exchanged rows
    that happen to be equal: the fraction of all pairs of rows with different values, divided by that fraction among the
    exchanged pairs. The factor is 0 if no exchanged pair differs."""
    values = [b"".join(np.ascontiguousarray(array[row]).tobytes() for array in conditions.values()) for row in rows]
    order = np.random.default_rng(0).permutation(len(rows))
    here = sum(values[row] != values[other] for row, other in enumerate(order)) / len(values)
    every = sum(one != other for one in values for other in values) / len(values) ** 2
    exchanged = {name: array.copy() for name, array in conditions.items()}
    for name, array in conditions.items():
        exchanged[name][rows] = array[rows[order]]
    return exchanged, 0.0 if here == 0 else every / here
