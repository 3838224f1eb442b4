"""Second moments of a task's activations. Its first trajectories are followed a second time, by workers or by this
process.

Each trajectory has its own sums, which are added in the order of the trajectories. So the result is bitwise identical
for any number of workers.
"""

from collections.abc import Callable
from functools import partial
from itertools import islice

import numpy as np

from fewstep.calibration.ranges.moments import Moments, MomentSums
from fewstep.calibration.ranges.observe import open_observed
from fewstep.calibration.task import Task
from fewstep.calibration.trajectory_jobs import Trajectories, map_trajectories, select_trajectories, split_trajectories
from fewstep.measure.workers.job import Workers
from fewstep.runtime.machine.memory_pages import release_free_memory
from fewstep.runtime.progress import SILENT, Progress

TRAJECTORIES = 16  # number of trajectories; as good as 64 (measured)
POSITIONS = 1 << 14  # positions of a layer over all trajectories; an eighth of this loses 2.5 dB on a U-Net of the zoo


def measure_second_moments(task: Task, progress: Progress = SILENT, workers: Workers | None = None) -> Moments:
    """Sum x x^T over the inputs x of each operation along the first trajectories.

    With `workers`, each follows one trajectory at a time; otherwise this process follows all of them.
    """
    count = min(TRAJECTORIES, len(task.seeds))
    work = partial(make_moment_collector, positions=positions_of_row(task))
    total: Moments = {}
    for done, each in enumerate(map_trajectories(task, work, islice(split_trajectories(task), count), workers), 1):
        total = {name: np.add(total[name], part, out=total[name]) for name, part in each.items()} if total else each
        progress("second moments", done, count)
    release_free_memory()  # frees the memory of the network that was followed
    return total


def positions_of_row(task: Task) -> int:
    """Return the positions of a layer that one row adds to its second moments."""
    steps = sum(len(step.branches) for step in task.plan.steps if step.network == task.network)
    return -(-POSITIONS // (min(TRAJECTORIES, len(task.seeds)) * steps))


def make_moment_collector(task: Task, positions: int) -> Callable[[Trajectories], Moments]:
    """Return a function that runs a trajectory and sums the second moments of the inputs of operations, at `positions`
    positions of each row."""
    release_free_memory()  # frees the memory of the network that counted
    read = tuple(dict.fromkeys(op.x for ops in task.ops_with_weights for op in ops))
    network = open_observed(task.prepared, read, task.threads)

    def moments(trajectory: Trajectories) -> Moments:
        part = select_trajectories(task, trajectory)
        watched = MomentSums(network, task.prepared, task.ops_with_weights, positions, part.seeds[0])
        for _ in part.run_trajectories(watched):
            pass
        return watched.sums

    return moments
