"""Second moments of a task: its first trajectories are followed once more, each by any worker or by this process.

A trajectory has sums of its own, which are added up in the order of the trajectories. So the number of workers changes
no bit.
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

TRAJECTORIES = 16  # serve as well as 64 (measured)
POSITIONS = 1 << 14  # of a layer along all of them: an eighth of it loses 2.5 dB on a U-Net of the zoo


def measure_second_moments(task: Task, progress: Progress = SILENT, workers: Workers | None = None) -> Moments:
    """Sums of x x^T of what each operation reads along the first trajectories.

    `workers` follow a trajectory each; without them this process follows all.
    """
    count = min(TRAJECTORIES, len(task.seeds))
    rows = count * sum(len(step.branches) for step in task.plan.steps if step.network == task.network)
    work = partial(make_moment_collector, positions=-(-POSITIONS // rows))
    total: Moments = {}
    for done, each in enumerate(map_trajectories(task, work, islice(split_trajectories(task), count), workers), 1):
        total = {name: np.add(total[name], part, out=total[name]) for name, part in each.items()} if total else each
        progress("second moments", done, count)
    release_free_memory()  # memory of the network that was followed
    return total


def make_moment_collector(task: Task, positions: int) -> Callable[[Trajectories], Moments]:
    """A function that gives the moments of a trajectory, at so many positions of each row."""
    release_free_memory()  # memory of the network that counted
    read = tuple(dict.fromkeys(op.x for ops in task.weighted_ops for op in ops))
    network = open_observed(task.prepared, read, task.threads)

    def moments(trajectory: Trajectories) -> Moments:
        part = select_trajectories(task, trajectory)
        watched = MomentSums(network, task.prepared, task.weighted_ops, positions, part.seeds[0])
        for _ in part.run_trajectories(watched):
            pass
        return watched.sums

    return moments
