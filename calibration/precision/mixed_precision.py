"""Default mixed precision: keep the few operations in float that cause most of the sample error and cost little time.

Operations that are slower in int8, or that the user keeps in float, all stay in float, at no cost. The others are
ordered by error per time. The number that stays in float is the one with the largest gain: the dB gained minus the
price of the time in dB. If the quality is then below the limit, more stay in float. Times are estimated from
multiply-accumulates; nothing is timed.
"""

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.coverage import count_operation_macs
from fewstep.calibration.lowering.quantize import select_measured_ops
from fewstep.calibration.policy import POLICY, CalibrationPolicy
from fewstep.calibration.precision.float_decisions import log_decisions
from fewstep.calibration.precision.operation_errors import measure_operation_errors
from fewstep.calibration.precision.ranking import Ranking, rank_operations
from fewstep.calibration.precision.recipe import Recipe
from fewstep.graph.files.io import exceeds_one_file
from fewstep.graph.graph import Graph
from fewstep.graph.selection import explain_selection
from fewstep.measure.rollouts.metrics import PEAK
from fewstep.measure.rollouts.nearness import LEAST_PSNR, LEAST_SNR
from fewstep.measure.rollouts.recorded_run import RecordedRun

Array = NDArray[np.float64]


def select_float_operations(recipe: Recipe, recorded_run: RecordedRun, runs: int, policy: CalibrationPolicy) -> Recipe:
    """Return the recipe with those operations in float that cause much of the sample error or are slower in int8. At
    most `runs` runs measure their errors."""
    target, prepared = recipe.target, recipe.prepared
    is_large = exceeds_one_file(prepared)
    with_rounded_weights = recipe if is_large else recipe.with_float_operations(())  # they are rounded once, and kept
    quantizer = None if is_large else with_rounded_weights.parts[0].quantize
    errors = measure_operation_errors(prepared, recipe.table, target, recorded_run, quantizer, runs, policy.remainder)
    slower = keep_slower_in_float(recipe).in_float
    ranking = rank_operations(errors, float_times(prepared, errors.operations, slower, policy))
    count = default_float_count(ranking, policy)
    in_float = ranking.first_operations(count)
    log_decisions(recipe, ranking, count, policy)
    return replace(with_rounded_weights, in_float=in_float, ranking=ranking)


def keep_slower_in_float(recipe: Recipe) -> Recipe:
    """Return the recipe with the operations in float that are slower in int8, or kept in float by the user."""
    ops = select_measured_ops(recipe.prepared, recipe.table, recipe.target.scheme)
    in_float = {*recipe.target.slower(recipe.prepared, ops), *recipe.kept}
    return replace(recipe, in_float=tuple(op.name for op in ops if op.name in in_float))


def float_times(
    prepared: Graph, operations: Sequence[str], slower: Collection[str] = (), policy: CalibrationPolicy = POLICY
) -> Array:
    """Return the time that each operation adds to an all-int8 step if it stays in float, as a fraction of the time of
    that step. It is 0 for operations in `slower`, which are slower in int8."""
    work, summed = count_operation_macs(prepared), dict[str, int]()  # products per output value
    for op, _ in explain_selection(prepared):
        weight = prepared.constants[op.weight]
        summed[op.name] = int(weight.size // weight.shape[op.axis])
    shares = np.array([work[name] for name in operations]) / (sum(work.values()) or 1)
    is_thin = (shares <= policy.thin_share) & (np.array([summed[name] for name in operations]) <= policy.thin_products)
    times = np.where(is_thin, policy.thin_time, np.maximum(policy.float_slowdown * shares, policy.least_time))
    return np.where(np.isin(operations, list(slower)), 0.0, times)


def default_float_count(ranking: Ranking, policy: CalibrationPolicy = POLICY) -> int:
    """Return the default number of operations in float: the number at which the gain in quality exceeds the price of
    the added time by most. If the quality there is below the minimum of `nearness`, return the smallest number that
    reaches the minimum within the allowed time."""
    quality, time = ranking.quality, ranking.time  # with 0, 1, 2, ... operations in float
    gain = np.where(time <= policy.nearly_free, quality - policy.price * time, -np.inf)
    count = max(ranking.slower_count, int(np.argmax(gain)))
    level = 10 * np.log10(max(ranking.signal, np.finfo(float).tiny) / PEAK**2)  # of the samples, in dB: SNR - PSNR
    # the minimum PSNR: the limits on PSNR (lower for samples beyond the usual range) and on SNR, as one PSNR
    least = max(LEAST_PSNR - max(level, 0.0), LEAST_SNR - level) + policy.margin
    enough = np.flatnonzero((quality >= least) & (time <= policy.furthest))
    return count if quality[count] >= least or not len(enough) else max(ranking.slower_count, int(enough[0]))
