"""Which operations stay in float by default: the few that make most of the error, as long as they are nearly free.

Those that int8 makes slower cost nothing: all of them stay. Of all others that may be left in float, in the order of
error for time, as many are left as win most: dB less their price. A body that is below the floor then leaves more. Time
follows from multiply-accumulates: nothing is timed.
"""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.lowering.coverage import macs
from fewstep.calibration.precision.operation_errors import OperationErrors
from fewstep.graph.graph import Graph
from fewstep.graph.selection import WeightedOp, considered_ops
from fewstep.measure.nearness import LEAST_PSNR, LEAST_SNR
from fewstep.measure.rollouts.metrics import PEAK

MARGIN = 2.0  # dB over the floor, where that decides: what is foretold is not what is judged
PRICE = 50.0  # dB for the time of a step all in int8: 0.5 dB for each 1 %
SLOWER = 1.3  # steps all in int8 that float takes more, for a share of 1 of the multiply-accumulates
THIN, SUMMED = 0.01, 64  # share, and products for a value, up to which int8 wins no time
LEAST_TIME = 2e-3  # of a step, for an operation: its borders; a tenth for a thin one
NEARLY_FREE, FURTHEST = 0.08, 0.5  # of a step, that quality may take; and that the floor may

Array = NDArray[np.float64]


def times_in_float(prepared: Graph, operations: Sequence[str], slower: Collection[str] = ()) -> Array:
    """What each of some operations adds to a step all in int8 if it stays in float, as a share of that step: nothing
    for those that int8 makes `slower`."""
    work, summed = macs(prepared), {op.name: _summed(op, prepared) for op, _ in considered_ops(prepared)}
    shares = np.array([work[name] for name in operations]) / (sum(work.values()) or 1)
    is_thin = (shares <= THIN) & (np.array([summed[name] for name in operations]) <= SUMMED)
    times = np.where(is_thin, LEAST_TIME / 10, np.maximum(SLOWER * shares, LEAST_TIME))
    return np.where(np.isin(operations, list(slower)), 0.0, times)


def _summed(op: WeightedOp, prepared: Graph) -> int:
    """How many products an operation sums for a value."""
    weight = prepared.constants[op.weight]
    return int(weight.size // weight.shape[op.axis])


def spared(errors: OperationErrors, times: Array) -> tuple[str, ...]:
    """Names of the operations that stay in float, by `times_in_float`, in the graph's order."""
    free = int(np.count_nonzero(times == 0))
    by_time = np.divide(errors.errors, times, out=np.full_like(times, np.inf), where=times > 0)
    order = np.argsort(-by_time, kind="stable")
    left = np.append(errors.errors[order][::-1].cumsum()[::-1], 0.0)
    time = np.append(0.0, times[order].cumsum())
    count = max(free, chosen(left, time, errors.signal))
    kept = {errors.operations[number] for number in order[:count]}
    return tuple(name for name in errors.operations if name in kept)


def chosen(left: Array, time: Array, signal: float) -> int:
    """How many of a list stay in float, by the mean squared error and the time [1 + count] with so many of them."""
    quality = -10 * np.log10(np.maximum(left, np.finfo(float).tiny))
    worth = np.where(time <= NEARLY_FREE, quality - PRICE * time, -np.inf)
    count = int(np.argmax(worth))
    loud = 10 * np.log10(max(signal, np.finfo(float).tiny))
    least = max(LEAST_PSNR - max(20 * np.log10(PEAK), loud), LEAST_SNR - loud)
    enough = np.flatnonzero((quality >= least + MARGIN) & (time <= FURTHEST))
    return count if quality[count] >= least + MARGIN or not len(enough) else int(enough[0])
