"""The operations in float by default: the few that make most of the error of samples, as long as they are nearly free.

Those that int8 makes slower cost nothing: all of them stay. Of all others that may be left in float, in the order of
error for time, as many are left as win most: dB less their price. A body that is below the floor then leaves more. Time
follows from multiply-accumulates: nothing is timed.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.lowering.quantize import select_measured_ops
from fewstep.calibration.precision.operation_errors import measure_operation_errors
from fewstep.calibration.precision.ranking import Ranking, rank_operations
from fewstep.calibration.precision.recipe import Recipe
from fewstep.graph.graph import Graph
from fewstep.graph.io import exceeds_one_file
from fewstep.graph.selection import explain_selection
from fewstep.measure.rollouts.metrics import PEAK
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR
from fewstep.measure.rollouts.recorded_run import RecordedRun

MARGIN = 2.0  # dB over the floor, where that decides: what is foretold is not what is judged
PRICE = 50.0  # dB for the time of a step all in int8: 0.5 dB for each 1 %
SLOWER = 1.3  # steps all in int8 that float takes more, for a share of 1 of the multiply-accumulates
THIN, SUMMED = 0.01, 64  # share, and products for a value, up to which int8 wins no time
LEAST_TIME = 2e-3  # of a step, for an operation: its borders; a tenth for a thin one
NEARLY_FREE, FURTHEST = 0.08, 0.5  # of a step, that quality may take; and that the floor may

Array = NDArray[np.float64]


def select_float_operations(recipe: Recipe, course: RecordedRun) -> Recipe:
    """The recipe with the operations in float that make much of the error of samples, and those that int8 makes
    slower."""
    target, prepared = recipe.target, recipe.prepared
    remembering = (
        recipe if exceeds_one_file(prepared) else recipe.with_float_operations(())
    )  # weights that are rounded once
    quantizer = None if exceeds_one_file(prepared) else remembering.parts[0].quantize
    errors = measure_operation_errors(prepared, recipe.table, target, course, quantizer)
    ranking = rank_operations(errors, float_times(prepared, errors.operations, keep_slower_in_float(recipe).in_float))
    return replace(remembering, in_float=ranking.first_operations(default_float_count(ranking)), ranking=ranking)


def keep_slower_in_float(recipe: Recipe) -> Recipe:
    """The recipe with the operations in float that int8 makes slower."""
    ops = select_measured_ops(recipe.prepared, recipe.table, recipe.target.scheme)
    slower = recipe.target.slower(recipe.prepared, ops)
    return replace(recipe, in_float=tuple(op.name for op in ops if op.name in slower))


def float_times(prepared: Graph, operations: Sequence[str], slower: Collection[str] = ()) -> Array:
    """The time that each of some operations adds to a step all in int8 if it stays in float, as a share of that step:
    0 for those that int8 makes `slower`."""
    work, summed = count_operation_macs(prepared), dict[str, int]()  # products for a value
    for op, _ in explain_selection(prepared):
        weight = prepared.constants[op.weight]
        summed[op.name] = int(weight.size // weight.shape[op.axis])
    shares = np.array([work[name] for name in operations]) / (sum(work.values()) or 1)
    is_thin = (shares <= THIN) & (np.array([summed[name] for name in operations]) <= SUMMED)
    times = np.where(is_thin, LEAST_TIME / 10, np.maximum(SLOWER * shares, LEAST_TIME))
    return np.where(np.isin(operations, list(slower)), 0.0, times)


def default_float_count(ranking: Ranking) -> int:
    """The number of operations in float by default."""
    quality, time = ranking.quality, ranking.time
    worth = np.where(time <= NEARLY_FREE, quality - PRICE * time, -np.inf)
    count = max(ranking.slower_count, int(np.argmax(worth)))
    signal = 10 * np.log10(max(ranking.signal, np.finfo(float).tiny) / PEAK**2)
    least = max(LEAST_PSNR - max(signal, 0.0), LEAST_SNR - signal) + MARGIN
    enough = np.flatnonzero((quality >= least) & (time <= FURTHEST))
    return count if quality[count] >= least or not len(enough) else max(ranking.slower_count, int(enough[0]))
