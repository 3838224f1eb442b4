"""The order in which operations leave int8, with what is foretold of quality and time."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.precision.operation_errors import OperationErrors
from fewstep.measure.rollouts.metrics import PEAK

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Operations in the order in which they leave int8: those that int8 makes slower, then by error for time.

    operations: their names, in the graph's order. order: their numbers. left [1 + operations]: the mean squared error
    of samples that is foretold with so many of them in float. time [1 + operations]: what these add to a step all in
    int8, as a share of it. signal: the variance of float32's samples.
    """

    operations: tuple[str, ...]
    order: tuple[int, ...]
    left: Array
    time: Array
    signal: float

    @property
    def slower_count(self) -> int:
        """The number of operations that int8 makes slower."""
        return int(np.count_nonzero(self.time == 0)) - 1

    @property
    def quality(self) -> Array:
        """PSNR [1 + operations] in dB of the errors that are left."""
        return np.asarray(20 * np.log10(PEAK) - 10 * np.log10(np.maximum(self.left, np.finfo(float).tiny)))

    def first_operations(self, count: int) -> tuple[str, ...]:
        """Names of the operations that stay in float where so many do, in the graph's order."""
        return tuple(self.operations[number] for number in sorted(self.order[:count]))


def rank_operations(errors: OperationErrors, times: Array) -> Ranking:
    """The ranking of operations by their errors and `float_times`."""
    by_time = np.divide(errors.errors, times, out=np.full_like(times, np.inf), where=times > 0)
    order = np.argsort(-by_time, kind="stable")
    left = np.append(errors.errors[order][::-1].cumsum()[::-1], 0.0)
    time = np.append(0.0, times[order].cumsum())
    return Ranking(errors.operations, tuple(map(int, order)), left, time, errors.signal)
