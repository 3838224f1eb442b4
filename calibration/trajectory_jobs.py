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
Sizes = tuple[Mapping[str, int], ...]
Trajectories = tuple[range, ConditionRecords | None, Sizes]  # seeds; conditions [seeds, *shape] and sizes if given
Work = Callable[[Task], Callable[[Trajectories], Result]]  # a module-level function, called once for each task


@dataclass(frozen=True)
class TrajectoryJob(Generic[Result]):
    """A unit of work, with the parts of a task that all its trajectories share."""

    work: Work[Result]
    bundle: PinnedBundle
    plan: AnyPlan
    edges: tuple[float, ...]
    network: str
    no_floats: bool
    weights_only: bool

    def open(self, threads: int) -> Callable[[Trajectories], Result]:
        return self.work(self.load_task(threads))

    def load_task(self, threads: int) -> Task:
        """Load the task in this worker process, without its trajectories."""
        folder = self.bundle.check_folder()
        all_networks = load(folder, body="float32", backend=LazyOnnxRuntime(threads=threads))
        task = load_task(all_networks, self.network, self.plan, self.edges)
        return replace(task, threads=threads, no_floats=self.no_floats, weights_only=self.weights_only)


def map_trajectories(
    task: Task, work: Work[Result], trajectories: Iterable[Trajectories], workers: Workers | None
) -> Iterator[Result]:
    """Apply `work` to each part of the trajectories, and yield the results in the order of the parts. With `workers`,
    each process takes one part at a time; without, this process does all of them."""
    if workers is None:
        return map(work(task), trajectories)
    bundle = pin_bundle(task.sampler.bundle.path)
    shared = task.plan, task.edges, task.network, task.no_floats, task.weights_only
    return map_in_order(TrajectoryJob(work, bundle, *shared), trajectories, workers)


def split_trajectories(task: Task, at_once: int = 1) -> Iterator[Trajectories]:
    """Split the trajectories of a task, in order, into parts of up to `at_once` trajectories with samples of the same
    size."""
    for place in split_seeds(task.seeds, at_once, task.conditions, task.sizes):
        part = task.select(place)
        yield part.seeds, part.conditions, part.sizes


def select_trajectories(task: Task, trajectories: Trajectories) -> Task:
    """Return the task with only these trajectories."""
    seeds, conditions, sizes = trajectories
    return replace(task, seeds=seeds, conditions=conditions, sizes=sizes)
