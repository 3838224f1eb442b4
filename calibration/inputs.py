"""Which inputs the denoiser is watched on. Those of the deployed plan, unless another distribution is to be compared.

Time-step distributions of the literature are taken from a long DDIM trajectory of the same denoiser: as many of its
steps for each seed as the deployed plan has, drawn by the seed.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import floor
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.task import Task
from fewstep.plans import noise
from fewstep.plans.plan import Plan
from fewstep.rollouts.trajectories import BATCH, BodyCall, roll_out, uniform
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.progress import SILENT, Progress

Distribution = Literal["deployed", "uniform", "normal", "interval"]

LONG = 50  # steps of the trajectory that other distributions draw from
NORMAL = NormalDist(0.4, 0.4)  # of time in [0, 1], 0 clean: PTQ4DM (Shang et al. 2023, arXiv 2211.15736)


def evaluations(
    task: Task, watched: LoadedGraph, inputs: Distribution, progress: Progress = SILENT, batch: int = BATCH
) -> Iterator[BodyCall]:
    """Every evaluation of the plan that is followed, `watched` in the place of the task's float denoiser. Those of a
    long one count in part: `counted` says which."""
    sampler = replace(task.sampler, denoiser=watched)
    yield from roll_out(sampler, followed(task, inputs), task.seeds, progress, batch, task.conditions, sizes=task.sizes)


def followed(task: Task, inputs: Distribution) -> Plan:
    """The plan whose evaluations are watched."""
    return task.plan if inputs == "deployed" else long_plan(task)


def counted(evaluation: BodyCall, inputs: Distribution, count: int, steps: int) -> BodyCall:
    """What counts of an evaluation, which may be nothing: all of a deployed plan; of a long trajectory with `steps`
    steps, where `count` are taken of each seed, the part of the seeds that see this one."""
    return evaluation if inputs == "deployed" else taken(evaluation, inputs, count, steps)


def long_plan(task: Task) -> Plan:
    """DDIM with the task's guidance, in LONG steps, or as many as the schedule has."""
    steps = task.sampler.bundle.manifest.schedule.timesteps
    return task.sampler.compile(f"ddim:{min(LONG, steps)}", task.plan.guidance)


def chosen(inputs: Distribution, seed: int, count: int, steps: int) -> frozenset[int]:
    """Indices, from noise to clean, of the steps of a long trajectory that are seen for a seed: `count`, or fewer where
    one is drawn twice.

    interval: evenly spaced, both ends included, the same for every seed (Q-Diffusion, Li et al. 2023, arXiv
    2302.04304).
    """
    if inputs == "interval":
        return frozenset(np.linspace(0, steps - 1, count).round().astype(int).tolist())
    drawn = uniform(seed, 0, noise.STEPS, count)
    times = drawn if inputs == "uniform" else np.clip([NORMAL.inv_cdf(u) for u in drawn], 0.0, 1.0)
    return frozenset(min(floor((1 - time) * steps), steps - 1) for time in times)


def taken(evaluation: BodyCall, inputs: Distribution, count: int, steps: int) -> BodyCall:
    """The part of an evaluation of a long trajectory that belongs to seeds which see its step."""
    keep = [evaluation.state.index in chosen(inputs, seed, count, steps) for seed in evaluation.seeds]
    rows = np.tile(keep, len(evaluation.state.step.branches))
    return BodyCall(
        evaluation.state,
        [seed for seed, kept in zip(evaluation.seeds, keep, strict=True) if kept],
        {name: value[rows] for name, value in evaluation.feeds.items()},
        {name: _rows_of(value, rows) for name, value in evaluation.tensors.items()},
    )


def _rows_of(value: NDArray[np.float32], keep: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Heads or windows may be merged with the batch: several rows of a tensor for each of the feeds. All of one whose
    number of rows follows from values, as what an expert is given: whose they are cannot be told."""
    each, rest = divmod(len(value), len(keep))
    return value if rest else value[np.repeat(keep, each)]
