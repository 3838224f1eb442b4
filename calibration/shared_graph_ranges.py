"""The ranges of a graph that runs once per call, and the inputs that give them."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.activation_counts import tabulate
from fewstep.calibration.ranges.observe import Counts, measure_tensor
from fewstep.calibration.ranges.row_observer import RowObserver, open_counted
from fewstep.calibration.ranges.table import RangesTable
from fewstep.calibration.task import Task
from fewstep.calibration.trajectory_jobs import select_trajectories, split_trajectories
from fewstep.graph.graph import Graph
from fewstep.measure.rollouts.seeds import SeedBatch
from fewstep.plans.any_plan import check_compiled
from fewstep.plans.errors import UserError
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.machine.memory_pages import release_free_memory


def measure_ranges(task: Task, graph: Graph, feeds: Iterable[Arrays]) -> RangesTable:
    """Return the ranges of a graph's tensors over some inputs, each of one sample, one range for all steps. Raises
    UserError naming a tensor whose values are not finite."""
    counts, samples = Counts.empty(graph, (), 1), 0
    network = open_counted(graph, counts, task.threads)
    for fed in feeds:
        samples += 1
        held = network(fed)
        large = network.take_histograms() if isinstance(network, RowObserver) else None
        tensors = {**fed, **held}
        for name in counts.tensors:
            values = large.get(name) if large is not None else measure_tensor(tensors[name], counts.axes.get(name))
            if isinstance(values, str):
                raise UserError(f"tensor {name!r} has {values}", "check the weights and the conditions")
            if values is not None:
                counts.include({(name, 0): values})
    release_free_memory()
    counts = replace(counts, samples=max(1, samples))
    return tabulate(replace(task, prepared=graph), counts.fill_unseen_groups())


def setup_feeds(task: Task, name: str) -> Iterator[Arrays]:
    """Yield the inputs of a graph of `RUN_ONCE` along all trajectories, each of one row. Only those of one part of the
    trajectories are in memory."""
    fed, manifest = list[Arrays](), task.sampler.bundle.manifest
    compute: LoadedGraph = getattr(task.sampler.network(), name)

    def keep(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        fed.extend(split_rows(feeds))
        return compute(feeds)

    changed: dict[str, Any] = {name: keep}
    sampler, plan = task.sampler.with_network_parts(**changed), check_compiled(task.plan)
    first = next(index for index, step in enumerate(plan.steps) if step.network == task.network)
    for trajectory in split_trajectories(task):
        part = select_trajectories(task, trajectory)
        batch = SeedBatch.from_manifest(manifest, part.seeds, part.conditions)
        calls = batch.at_size(sampler).step_call(plan, len(part.seeds), batch.conditions)
        calls.split_feeds(first, plan.steps[first])
        yield from fed
        fed.clear()


def split_rows(arrays: Mapping[str, NDArray[Any]]) -> Iterator[Arrays]:
    """Yield each row of some arrays as a batch of one."""
    for row in range(len(next(iter(arrays.values())))):
        yield {name: array[row : row + 1] for name, array in arrays.items()}
