"""What a calibration is asked to do: all that is known, and checked, before the first trajectory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from fewstep.graph.graph import Graph
from fewstep.lowering.scheme import Target
from fewstep.plans.plan import Plan
from fewstep.rollouts.conditions_file import ConditionRecords
from fewstep.rollouts.trajectories import BATCH, BodyCall, roll_out
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sampler import Sampler


@dataclass(frozen=True)
class Task:
    """A bundle's float denoiser, the plan it will run, and what to follow along it."""

    sampler: Sampler  # of the float32 body
    prepared: Graph
    plan: Plan
    targets: tuple[Target, ...]
    seeds: range
    edges: tuple[float, ...]  # of the lambda groups
    operations: tuple[str, ...]  # that will be lowered
    conditions: ConditionRecords | None  # one row for each seed, if they are given
    sizes: tuple[Mapping[str, int], ...] = ()  # of x, which the seeds have in turn; none: the default
    threads: int = 0  # of one evaluation in this process; 0: one for each core

    def after(self, done: int) -> "Task":
        """What is left of the trajectories."""
        left = None if self.conditions is None else {name: rows[done:] for name, rows in self.conditions.items()}
        return replace(self, seeds=self.seeds[done:], conditions=left)

    def evaluations(self, network: LoadedGraph, progress: Progress = SILENT, batch: int = BATCH) -> Iterator[BodyCall]:
        """Every evaluation of the plan along the trajectories, of a network in the place of the float denoiser."""
        sampler = replace(self.sampler, denoiser=network)
        return roll_out(sampler, self.plan, self.seeds, progress, batch, self.conditions, sizes=self.sizes)
