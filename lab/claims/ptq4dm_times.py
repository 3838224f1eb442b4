"""PTQ4DM's calibration inputs: steps of a long trajectory that are drawn for each sample (Shang et al. 2023, arXiv
2211.15736).

Times are in [0, 1], and 0 is clean. They are drawn from a normal distribution with mean 0.4 and standard deviation 0.4,
and clipped to [0, 1].
"""

from math import floor
from statistics import NormalDist

import numpy as np

from fewstep.calibration.ranges.observe import Counts, open_observed
from fewstep.calibration.task import Task
from fewstep.measure.rollouts.seeds import uniform
from fewstep.measure.rollouts.trajectories import BodyCall, roll_out
from fewstep.plans import noise
from fewstep.runtime.progress import SILENT, Progress

LONG = 50  # number of steps of the DDIM trajectory
TIMES = NormalDist(0.4, 0.4)


def count_at_normal_times(task: Task, progress: Progress = SILENT) -> Counts:
    """Return the counts of activations by the task's range groups. For each sample, the number of drawn steps is that
    of the task's plan."""
    counts = Counts.empty(task.prepared, task.edges, len(task.seeds))
    sampler = task.sampler.with_network_parts(graph=open_observed(task.prepared, counts.tensors))
    steps = min(LONG, sampler.bundle.manifest.schedule.timesteps)
    plan = sampler.compile(f"ddim:{steps}", task.plan.guidance)
    for evaluation in roll_out(sampler, plan, task.seeds, progress, 1, task.conditions):
        part = at_drawn_steps(evaluation, len(task.plan.steps), steps)
        if part.seeds:
            counts.add(part)
    return counts.fill_unseen_groups()


def draw_steps(seed: int, count: int, steps: int) -> frozenset[int]:
    """Return the indices of a sample's steps, from noise to clean. There are `count` of them, or fewer if one is drawn
    twice."""
    times = np.clip([TIMES.inv_cdf(u) for u in uniform(seed, 0, noise.STEPS, count)], 0.0, 1.0)
    return frozenset(min(floor((1 - time) * steps), steps - 1) for time in times)


def at_drawn_steps(evaluation: BodyCall, count: int, steps: int) -> BodyCall:
    """Return the samples of an evaluation that drew its step. A tensor may have several rows for each row of the
    feeds."""
    keep = [evaluation.state.index in draw_steps(seed, count, steps) for seed in evaluation.seeds]
    rows = np.tile(keep, len(evaluation.state.step.branches))
    return BodyCall(
        evaluation.state,
        [seed for seed, kept in zip(evaluation.seeds, keep, strict=True) if kept],
        {name: value[rows] for name, value in evaluation.feeds.items()},
        {name: value[np.repeat(rows, len(value) // len(rows))] for name, value in evaluation.tensors.items()},
    )
