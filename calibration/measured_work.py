"""The time of a calibration's work besides evaluations: it is measured on the first evaluations, as they are recorded.

Histograms and second moments of all activations take several times as long as the evaluation itself, and how long
depends on the shapes of the network and on this machine.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from time import perf_counter

import numpy as np

from fewstep.calibration.lowering.gptq import AT_ONCE
from fewstep.calibration.ranges.moments import MomentSums, block_width, split_inputs
from fewstep.calibration.ranges.observe import Counts, open_observed
from fewstep.calibration.ranges.row_observer import RowObserver, open_counted
from fewstep.calibration.second_moments import positions_of_row
from fewstep.calibration.task import Task
from fewstep.measure.estimate import TIMED

EVALUATIONS = 2  # of which the second is timed: the first one also allocates memory


@dataclass(frozen=True)
class MeasuredWork:
    """Seconds besides those of float32's evaluation: to count the activations of one evaluation of one sample, to add
    its second moments, and to round the weights of one body."""

    counting: float
    moments: float
    rounding: float


def measure_work(task: Task, seconds: float) -> MeasuredWork:
    """Measure the work of a task. `seconds` are those of an evaluation of one sample."""
    counting = max(0.0, _last(_count(task)) - seconds) if task.quantizes_activations else 0.0
    return MeasuredWork(counting, max(0.0, _last(_add_moments(task)) - seconds), _time_rounding(task))


def _last(times: Iterable[float]) -> float:
    """Return the seconds between the last two times."""
    *_, before, end = times
    return end - before


def _count(task: Task) -> Iterator[float]:
    """Count the activations of the first evaluations. Yield the time before, and after each."""
    counts = Counts.empty(task.prepared, task.edges, 1, task.no_floats)
    watched = open_counted(task.prepared, counts, task.threads)
    yield perf_counter()
    for call in islice(task.select(slice(1)).run_trajectories(watched), EVALUATIONS):
        counts.add(call, watched.take_histograms() if isinstance(watched, RowObserver) else None)
        yield perf_counter()


def _add_moments(task: Task) -> Iterator[float]:
    """Add the second moments of the first evaluations. Yield the time before, and after each."""
    read = tuple(dict.fromkeys(op.x for ops in task.ops_with_weights for op in ops))
    network = open_observed(task.prepared, read, task.threads)
    watched = MomentSums(network, task.prepared, task.ops_with_weights, positions_of_row(task), 0)
    yield perf_counter()
    for _ in islice(task.select(slice(1)).run_trajectories(watched), EVALUATIONS):
        yield perf_counter()


def _time_rounding(task: Task) -> float:
    """Return the seconds in which GPTQ rounds all weights, by the time of one of its factorizations of the largest
    width. Each rounds at most AT_ONCE weights."""
    sizes = list[tuple[int, int]]()  # the width, and the number of factorizations
    for ops in task.ops_with_weights:
        width = block_width(ops, task.prepared)
        for op in ops:
            blocks = split_inputs(op, task.prepared.constants[op.weight].shape, width)
            parts = -(-blocks.outputs // max(1, AT_ONCE // blocks.width))
            sizes.append((blocks.width, parts * len(blocks.spans)))
    if not sizes:
        return 0.0
    largest = max(width for width, _ in sizes)
    matrix, done, start = np.eye(largest) + 1e-3, 0, perf_counter()
    while perf_counter() < start + TIMED:  # other programs delay few short calls
        np.linalg.cholesky(matrix)
        done += 1
    return (perf_counter() - start) / done * sum(count * (width / largest) ** 3 for width, count in sizes)
