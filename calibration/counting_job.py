"""Counting as a job: each trajectory is followed by any worker, and its histograms are added up exactly."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from fewstep.calibration.task import Task
from fewstep.graph import io
from fewstep.plans.plan import Plan
from fewstep.ranges.histogram import Histogram
from fewstep.ranges.measured_rows import open_counted, taken
from fewstep.ranges.observe import Counts
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.on_demand import OpeningOnDemand
from fewstep.rollouts.row_by_row import sampler_by_rows
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.loading import load
from fewstep.workers.sent_bundle import SentBundle, sent

Histograms = Mapping[tuple[str, int], Histogram]


@dataclass(frozen=True)
class Trajectory:
    """One seed [1], and its values of the conditions [1, *shape] if they are given."""

    seeds: range
    conditions: ConditionRecords | None


@dataclass(frozen=True)
class CountingJob:
    """All that the trajectories of a task share."""

    bundle: SentBundle
    plan: Plan
    edges: tuple[float, ...]
    sizes: tuple[Mapping[str, int], ...]
    turn: int

    def open(self, threads: int) -> Callable[[Trajectory], Histograms]:
        folder = self.bundle.folder()
        sampler = load(folder, body="float32", backend=OpeningOnDemand(threads=threads))
        prepared = io.load(sampler.bundle.graph(sampler.body.graph), root=folder)
        counts = Counts.empty(prepared, self.edges, samples=1)
        task = Task(
            sampler_by_rows(sampler), prepared, self.plan, (), range(0), self.edges, (), None, self.sizes, self.turn
        )
        return partial(_count, task, open_counted(prepared, counts, threads), counts)


def counting(task: Task) -> tuple[CountingJob, Iterator[Trajectory]]:
    """A task as a job, and its trajectories in order."""
    job = CountingJob(sent(task.sampler.bundle.path), task.plan, task.edges, task.sizes, task.turn)
    every = (task.after(number) for number in range(len(task.seeds)))
    return job, (Trajectory(each.seeds[:1], _first(each.conditions)) for each in every)


def _first(conditions: ConditionRecords | None) -> ConditionRecords | None:
    return None if conditions is None else {name: rows[:1] for name, rows in conditions.items()}


def _count(task: Task, watched: LoadedGraph, empty: Counts, trajectory: Trajectory) -> Histograms:
    counts = replace(empty, histograms={})
    own = replace(task, seeds=trajectory.seeds, conditions=trajectory.conditions)
    for evaluation in own.evaluations(watched):
        counts.add(evaluation, taken(watched))
    return counts.histograms
