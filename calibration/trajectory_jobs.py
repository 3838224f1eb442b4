"""Jobs over a task's trajectories, for this process or for workers, with bitwise identical results."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from fewstep.calibration.task import Task, load_task
from fewstep.measure.rollouts.conditions_file import ConditionRecords
from fewstep.measure.rollouts.on_demand import LazyOnnxRuntime
from fewstep.measure.rollouts.trajectories import split_seeds
from fewstep.measure.workers.job import Workers, map_in_order
from fewstep.measure.workers.pinned_bundle import PinnedBundle, pin_bundle
from fewstep.plans.any_plan import AnyPlan
from fewstep.runtime.sampling.loading import load

Result = TypeVar("Result")
Trajectories = tuple[range, ConditionRecords | None]  # seeds, and conditions [seeds, *shape] if given
Work = Callable[[Task], Callable[[Trajectories], Result]]  # a module-level function, called once for each task


@dataclass(frozen=True)
class TrajectoryJob(Generic[Result]):
    """A unit of work, with the parts of a task that all its trajectories share."""

    work: Work[Result]
    bundle: PinnedBundle
    plan: AnyPlan
    edges: tuple[float, ...]
    sizes: tuple[Mapping[str, int], ...]
    per_size: int
    network: str
    no_floats: bool

    def open(self, threads: int) -> Callable[[Trajectories], Result]:
        return self.work(self.load_task(threads))

    def load_task(self, threads: int) -> Task:
        """Load the task in this worker process, without its trajectories."""
        folder = self.bundle.check_folder()
        all_networks = load(folder, body="float32", backend=LazyOnnxRuntime(threads=threads))
        task = load_task(all_networks, self.network, self.plan, self.edges)
        return replace(task, sizes=self.sizes, per_size=self.per_size, threads=threads, no_floats=self.no_floats)


def map_trajectories(
    task: Task, work: Work[Result], trajectories: Iterable[Trajectories], workers: Workers | None
) -> Iterator[Result]:
    """Apply `work` to each part of the trajectories, and yield the results in the order of the parts. With `workers`,
    each process takes one part at a time; without, this process does all of them."""
    if workers is None:
        return map(work(task), trajectories)
    bundle = pin_bundle(task.sampler.bundle.path)
    shared = task.plan, task.edges, task.sizes, task.per_size, task.network, task.no_floats
    return map_in_order(TrajectoryJob(work, bundle, *shared), trajectories, workers)


def split_trajectories(task: Task, at_once: int = 1) -> Iterator[Trajectories]:
    """Split the trajectories of a task, in order, into parts of up to `at_once` trajectories with samples of the same
    size."""
    for start, seeds, _ in split_seeds(task.seeds, at_once, task.sizes, task.per_size):
        part = task.select(slice(start, start + len(seeds)))
        yield part.seeds, part.conditions


def select_trajectories(task: Task, trajectories: Trajectories) -> Task:
    """Return the task with only these trajectories."""
    seeds, conditions = trajectories
    return replace(task, seeds=seeds, conditions=conditions)
