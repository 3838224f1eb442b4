"""What the held-out seeds are asked to be: conditions fixed by the seed, none of them drawn by calibration."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.trajectories import draw_condition
from fewstep.runtime.manifest import Condition


def held_out_conditions(conditions: Sequence[Condition], seeds: Sequence[int]) -> dict[str, NDArray[Any]]:
    """Each condition [seeds, *shape]: integers cycle through their values, anything else is drawn by the seed."""
    return {
        condition.name: np.stack([_value(condition, number, seed) for seed in seeds])
        for number, condition in enumerate(conditions)
    }


def label(conditions: Sequence[Condition], seed: int) -> str:
    """The conditions of one held-out seed, in words: what can be told in a few."""
    values = held_out_conditions(conditions, [seed])
    texts = []
    for condition in conditions:
        value = values[condition.name][0]
        if value.shape == ():
            known = condition.labels and 0 <= int(value) < len(condition.labels)
            texts.append(condition.labels[int(value)] if known else f"{condition.name} {value:g}")
    return ", ".join(texts) or f"seed {seed}"


def _value(condition: Condition, number: int, seed: int) -> NDArray[Any]:
    countable = condition.shape == () and condition.dtype in ("int64", "int32", "uint8", "int8")
    if countable and condition.low is not None and condition.high is not None:
        count = int(condition.high) - int(condition.low) + 1
        return np.asarray(int(condition.low) + seed % count, condition.dtype)
    return draw_condition(condition, number, seed)
