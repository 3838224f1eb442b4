"""Second moments of a task's activations, and float32's samples. Its first trajectories are followed a second time, by
workers or by this process.

Each trajectory has its own sums, which are added in the order of the trajectories. So the result is bitwise identical
for any number of workers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np

from fewstep.calibration.ranges.moments import Moments, MomentSums
from fewstep.calibration.ranges.observe import open_observed
from fewstep.calibration.task import Task
from fewstep.calibration.trajectory_jobs import Trajectories, map_trajectories, select_trajectories, split_trajectories
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.metrics import Floats
from fewstep.measure.workers.job import Workers
from fewstep.plans.plan import Plan
from fewstep.runtime.backends import Arrays
from fewstep.runtime.machine.memory_pages import release_free_memory
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampling.execute import StepState

TRAJECTORIES = 16  # number of trajectories; as good as 64 (measured)
POSITIONS = 1 << 14  # positions of a layer over all trajectories; an eighth of this loses 2.5 dB on a U-Net of the zoo


@dataclass(frozen=True)
class FloatSample:
    """Float32's sample [1, *x_shape] of a trajectory, and its conditions [1, *shape]."""

    x: Floats
    conditions: Arrays


@dataclass(frozen=True)
class MomentsAndSamples:
    """The sums of x x^T over the inputs x of each operation along some trajectories, and their samples in float32, of
    which tokens have none. 16 samples suffice for the ranges of an autoencoder: 64 gain 1 dB at most, and with two the
    decoder of a small pipeline lost 13 dB."""

    moments: Moments
    samples: tuple[FloatSample, ...]


def follow_first_trajectories(
    task: Task, progress: Progress = SILENT, workers: Workers | None = None
) -> MomentsAndSamples:
    """Follow the first TRAJECTORIES. With `workers`, each follows one at a time; otherwise this process follows all of
    them."""
    count = min(TRAJECTORIES, len(task.seeds))
    work = partial(make_follower, positions=positions_of_row(task))
    total: Moments = {}
    samples = list[FloatSample]()
    for done, part in enumerate(map_trajectories(task, work, islice(split_trajectories(task), count), workers), 1):
        sums = part.moments
        total = {name: np.add(total[name], added, out=total[name]) for name, added in sums.items()} if total else sums
        samples += part.samples
        progress("second moments", done, count)
    release_free_memory()  # frees the memory of the network that was followed
    return MomentsAndSamples(total, tuple(samples))


def positions_of_row(task: Task) -> int:
    """Return the positions of a layer that one row adds to its second moments."""
    steps = sum(len(step.branches) for step in task.plan.steps if step.network == task.network)
    return -(-POSITIONS // (min(TRAJECTORIES, len(task.seeds)) * steps))


def make_follower(task: Task, positions: int) -> Callable[[Trajectories], MomentsAndSamples]:
    """Return a function that runs a trajectory, sums the second moments of the inputs of operations, at `positions`
    positions of each row, and returns its sample too."""
    release_free_memory()  # frees the memory of the network that counted
    read = tuple(dict.fromkeys(op.x for ops in task.ops_with_weights for op in ops))
    network = open_observed(task.prepared, read, task.threads)

    def follow(trajectory: Trajectories) -> MomentsAndSamples:
        part, samples = select_trajectories(task, trajectory), list[FloatSample]()
        watched = MomentSums(network, task.prepared, task.ops_with_weights, positions, part.seeds[0])

        def keep_sample(state: StepState, conditions: ConditionRecords) -> None:
            if isinstance(task.plan, Plan):
                samples.append(FloatSample(state.sample(task.plan), conditions))

        for _ in part.run_trajectories(watched, keep_sample):
            pass
        return MomentsAndSamples(watched.sums, tuple(samples))

    return follow
