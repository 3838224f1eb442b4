"""The order in which operations move from int8 to float, with estimates of quality and time."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.precision.operation_errors import OperationErrors
from fewstep.measure.rollouts.metrics import PEAK

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Ranking:
    """Operations in the order in which they move to float: first those that are slower in int8, then by error per time.

    operations: names, in the graph's order.
    order: indices into `operations`.
    left: [1 + operations], the estimated mean squared error of samples with the first n operations of the order in
        float.
    time: [1 + operations], the time that these n operations add to an all-int8 step, as a fraction of it.
    signal: the variance of float32's samples.
    others: [samples], the mean squared errors of other graphs, to which these add.
    """

    operations: tuple[str, ...]
    order: tuple[int, ...]
    left: Array
    time: Array
    signal: float
    others: Array = field(default_factory=lambda: np.zeros(1))

    @property
    def slower_count(self) -> int:
        """The number of operations that are slower in int8."""
        return int(np.count_nonzero(self.time == 0)) - 1

    @property
    def quality(self) -> Array:
        """The estimated mean PSNR in dB with the first n operations in float, [1 + operations]."""
        errors = np.maximum(self.left + self.others[:, None], np.finfo(float).tiny)
        return np.asarray(20 * np.log10(PEAK) - 10 * np.log10(errors).mean(axis=0))

    def first_operations(self, count: int) -> tuple[str, ...]:
        """Return the names of the `count` operations that are ranked first for staying in float, sorted by their
        position in the graph."""
        return tuple(self.operations[number] for number in sorted(self.order[:count]))


def rank_operations(errors: OperationErrors, times: Array) -> Ranking:
    """Rank operations by their errors and `float_times`."""
    by_time = np.divide(errors.errors, times, out=np.full_like(times, np.inf), where=times > 0)
    order = np.argsort(-by_time, kind="stable")
    left = np.append(errors.errors[order][::-1].cumsum()[::-1], 0.0)
    time = np.append(0.0, times[order].cumsum())
    return Ranking(errors.operations, tuple(map(int, order)), left, time, errors.signal)
