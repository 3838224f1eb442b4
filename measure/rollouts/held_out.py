"""Conditions of the held-out seeds: the seed fixes them, and calibration draws none of them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.trajectories import HELD_OUT_SEEDS, draw_condition
from fewstep.runtime.bundle.manifest import Condition
from fewstep.runtime.conditions import drawn_range

PAIRED = HELD_OUT_SEEDS[: len(HELD_OUT_SEEDS) // 2]  # for samples that are compared with float32, seed by seed
APART = HELD_OUT_SEEDS[len(HELD_OUT_SEEDS) // 2 :]  # for float32 samples that others are compared with as a set


def held_out_conditions(
    conditions: Sequence[Condition], seeds: Sequence[int], rows: ConditionRecords | None = None
) -> dict[str, NDArray[Any]]:
    """Each condition [seeds, *shape]: integers cycle through their values, anything else is drawn by the seed.

    `rows` [N, *shape] of one's own take their place; seed i takes row i mod N.
    """
    if rows is not None:
        return {name: array[np.asarray(seeds) % len(array)] for name, array in rows.items()}
    return {
        condition.name: np.stack([_value(condition, number, seed) for seed in seeds])
        for number, condition in enumerate(conditions)
    }


def label(conditions: Sequence[Condition], seed: int, rows: ConditionRecords | None = None) -> str:
    """The conditions of one held-out seed, in a few words."""
    values = held_out_conditions(conditions, [seed], rows)
    texts = []
    for condition in conditions:
        value = values[condition.name][0]
        if value.shape == ():
            has_label = condition.labels and 0 <= int(value) < len(condition.labels)
            texts.append(condition.labels[int(value)] if has_label else f"{condition.name} {value:g}")
    return ", ".join(texts) or f"seed {seed}"


def _value(condition: Condition, number: int, seed: int) -> NDArray[Any]:
    countable = condition.shape == () and condition.dtype in ("int64", "int32", "uint8", "int8")
    drawn = drawn_range(condition)
    if countable and drawn is not None and condition.default is None:
        low, high = map(int, drawn)
        return np.asarray(low + seed % (high - low + 1), condition.dtype)
    return draw_condition(condition, number, seed)
