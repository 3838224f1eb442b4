"""The lines of `calibrate -v` on the operations that stay in float by default, each with the rule that decides."""

import logging

import numpy as np

from fewstep.calibration.policy import POLICY, CalibrationPolicy
from fewstep.calibration.precision.ranking import Ranking
from fewstep.calibration.precision.recipe import Recipe
from fewstep.graph.selection import explain_selection, layer_name

LOG = logging.getLogger("fewstep")


def log_decisions(recipe: Recipe, ranking: Ranking, count: int, policy: CalibrationPolicy) -> None:
    """Log each operation with its fraction of the error and of the time, and with the rule that decides, in the order
    in which they move to float. The first `count` are in float."""
    names = {op.name: layer_name(op.node) for op, _ in explain_selection(recipe.prepared)}
    errors = -np.diff(ranking.left) / max(ranking.left[0], np.finfo(float).tiny)
    for place, (number, error, time) in enumerate(zip(ranking.order, errors, np.diff(ranking.time), strict=True)):
        name = ranking.operations[number]
        rule = "kept by --keep-float" if name in recipe.kept else explain_decision(ranking, place, count, policy)
        LOG.info(
            "%s, %s: %s (%.2f %% of the error of int8; float adds %.2f %% of a step; %s)",
            *(recipe.target.name, names[name], "float" if place < count else "int8", 100 * error, 100 * time, rule),
        )


def explain_decision(ranking: Ranking, place: int, count: int, policy: CalibrationPolicy = POLICY) -> str:
    """Return, as text, the rule of `mixed_precision.default_float_count` that decides on the operation at a place of
    the order. The first `count` are in float."""
    quality, time = ranking.quality, ranking.time
    if time[place + 1] == 0:
        return "slower in int8"
    if time[count] > policy.nearly_free:
        return "needed for the minimum quality" if place < count else "not needed for the minimum quality"
    if place >= count and time[place + 1] > policy.nearly_free:
        with_others = f"with those above it {100 * time[place + 1]:.2f} %, and " if place else ""
        return f"{with_others}the limit is {100 * policy.nearly_free:g} %"
    first, last = (0, count) if place < count else (count, place + 1)
    gain, price = quality[last] - quality[first], policy.price * (time[last] - time[first])
    which = "it gains" if last - first == 1 else f"the {'first ' * (first == 0)}{last - first} together gain"
    return f"{which} {gain:.2f} dB in float, and must gain {price:.2f} dB"
