"""Second moments of a task: its first trajectories are followed once more, each by any worker or by this process.

A trajectory has sums of its own, which are added up in the order of the trajectories. So neither the number of workers
nor an interruption changes a bit.
"""

from collections.abc import Callable
from functools import partial

import numpy as np

from fewstep.calibration.along import Trajectories, done_along, only, trajectories_of
from fewstep.calibration.checkpoint import Checkpoint
from fewstep.calibration.ranges.moments import Moments, MomentSums
from fewstep.calibration.ranges.observe import open_watched
from fewstep.calibration.task import Task
from fewstep.measure.workers.in_order import Workers
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.machine.pages import give_back
from fewstep.runtime.progress import SILENT, Progress

TRAJECTORIES = 16  # serve as well as 64 (measured)
POSITIONS = 1 << 14  # of a layer along all of them: an eighth of it loses 2.5 dB on a U-Net of the zoo


def second_moments(
    task: Task, progress: Progress = SILENT, checkpoint: Checkpoint | None = None, workers: Workers | None = None
) -> Moments:
    """Sums of x x^T of what each operation reads along the first trajectories.

    `checkpoint` is the task's. `workers` follow a trajectory each; without them this process follows all.
    """
    count = min(TRAJECTORIES, len(task.seeds))
    total, done = ({}, 0) if checkpoint is None else checkpoint.load_moments()
    left = [trajectory for _, trajectory in zip(range(done, count), trajectories_of(task.after(done)), strict=False)]
    if not left:
        return total
    rows = min(TRAJECTORIES, len(task.seeds)) * sum(
        len(step.branches) for step in task.plan.steps if step.network == task.network
    )
    for moments in done_along(task, partial(moments_along, positions=-(-POSITIONS // rows)), left, workers):
        total = {name: np.add(total[name], own, out=total[name]) for name, own in moments.items()} if total else moments
        done += 1
        progress("second moments", done, count)
        if checkpoint is not None and done < count:
            checkpoint.save_moments(total, done)
    del moments  # the last trajectory's own sums: a file of moments is twice in memory while it is written
    give_back()  # memory of the network that was followed
    if checkpoint is not None:
        checkpoint.save_moments(total, done, is_last=True)
    return total


def moments_along(task: Task, positions: int) -> Callable[[Trajectories], Moments]:
    """A function that gives the moments of a trajectory, at so many positions of each row."""
    give_back()  # memory of the network that counted
    read = tuple(dict.fromkeys(op.x for ops in task.weighted for op in ops))
    return partial(_along, task, open_watched(task.prepared, read, task.threads), positions)


def _along(task: Task, network: LoadedGraph, positions: int, trajectory: Trajectories) -> Moments:
    watched = MomentSums(network, task.prepared, task.weighted, positions, trajectory.seeds[0])
    for _ in only(task, trajectory).evaluations(watched):
        pass
    return watched.sums
