"""Activation counts of a task: histograms of activations, and the ranges derived from them."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial

from fewstep.calibration.checkpoint import Checkpoint
from fewstep.calibration.lowering.encoding import eight_bit_name
from fewstep.calibration.ranges.histogram import Histogram
from fewstep.calibration.ranges.methods import extend_ranges, minmax_ranges, mse_ranges, pooled_mse_ranges
from fewstep.calibration.ranges.observe import Counts, tensors_to_observe
from fewstep.calibration.ranges.readers import find_readers
from fewstep.calibration.ranges.row_observer import RowObserver, open_counted
from fewstep.calibration.ranges.table import METHOD, Ranges, RangesTable
from fewstep.calibration.task import Task
from fewstep.calibration.trajectory_jobs import Trajectories, map_trajectories, select_trajectories, split_trajectories
from fewstep.graph.graph import Graph
from fewstep.graph.selection import select_int8_ops
from fewstep.measure.rollouts.trajectories import BATCH
from fewstep.measure.workers.job import Workers
from fewstep.runtime.machine.threads import imap_threads, run_with_prefetch
from fewstep.runtime.progress import SILENT, Progress

Histograms = Mapping[tuple[str, int], Histogram]
LOG = logging.getLogger("fewstep")


def count_activations(
    task: Task, progress: Progress = SILENT, checkpoint: Checkpoint | None = None, workers: Workers | None = None
) -> Counts:
    """Count the activations of the prepared graph in histograms, separately for each range group.

    checkpoint: the checkpoint of the task, from which counting resumes. workers: processes that each follow one
        trajectory at a time; without them, this process follows all.

    To count your own evaluations, use `Counts.empty`, `add` and `fill_unseen_groups`.
    """
    counts, done = Counts.empty(task.prepared, task.edges, len(task.seeds), task.no_floats), 0
    if checkpoint is not None:
        counts, done = checkpoint.load(counts)
    at_once = BATCH if workers is None and not task.is_large else 1
    left = task.select(slice(done, None))
    for count, histograms in map_trajectories(task, make_counter, split_trajectories(left, at_once), workers):
        counts.include(histograms)
        done += count
        progress("trajectories", done, len(task.seeds))
        if checkpoint is not None:
            checkpoint.save(counts, done, is_last=done == len(task.seeds))
    return counts.fill_unseen_groups()


def make_counter(task: Task) -> Callable[[Trajectories], tuple[int, Histograms]]:
    """Return a function that builds histograms of trajectories. It counts one evaluation while the next one runs."""
    empty = Counts.empty(task.prepared, task.edges, 1, task.no_floats)
    watched = open_counted(task.prepared, empty, task.threads)
    taken = watched.take_histograms if isinstance(watched, RowObserver) else lambda: None

    def count_trajectories(trajectories: Trajectories) -> tuple[int, Histograms]:
        counts = replace(empty, histograms={})
        part = select_trajectories(task, trajectories)
        run_with_prefetch(
            lambda call: counts.add(*call), ((trajectory, taken()) for trajectory in part.run_trajectories(watched))
        )
        return len(part.seeds), counts.histograms

    return count_trajectories


def tabulate_targets(task: Task, counts: Counts, progress: Progress = SILENT) -> dict[str, RangesTable]:
    """Return the table of activation ranges of each target of a task, by target name, including targets that failed.
    Targets that keep some operations in float share one table, and so do targets without float operations."""
    table = cache(partial(tabulate, task, counts, progress))
    by_floats = sorted(task.targets, key=lambda target: target.scheme.no_floats)
    return {target.name: table(target.scheme.no_floats) for target in by_floats}


def tabulate(task: Task, counts: Counts, progress: Progress = SILENT, no_floats: bool = False) -> RangesTable:
    """Return the table of ranges with the smallest error for the counted activations. A warning is logged for each
    activation that is constant.

    no_floats: whether the table is for targets without floats. It then has the full range of every float tensor, plus
        an 8-bit range for each activation that an operation selected for int8 reads. Targets with floats need fewer
        tensors.
    """
    least = counts.tensors if no_floats else tensors_to_observe(task.prepared)
    counted = tuple(name for name in counts.tensors if name in least)
    for name in counted:
        groups = counts.group_histograms(name)
        if len({end for histogram in groups for end in (histogram.low, histogram.high)}) == 1:
            LOG.warning("activation %r is always %g: a layer there may be dead", name, groups[0].low)
    tensors: dict[str, Ranges] = {}
    readers = find_readers(task.prepared)

    def search_ranges(name: str) -> Ranges:
        groups = counts.group_histograms(name)
        return minmax_ranges(groups) if no_floats else mse_ranges(groups, counts.samples, readers(name))

    every = zip(counted, imap_threads(search_ranges, counted), strict=True)
    for done, (name, ranges) in enumerate(every, 1):
        tensors[name] = ranges
        progress("ranges", done, len(counted))
    if no_floats:
        read = {op.x for op in select_int8_ops(task.prepared)}.intersection(counted)
        tensors |= {eight_bit_name(name): pooled_mse_ranges(counts.group_histograms(name)) for name in sorted(read)}
    return RangesTable(task.graph_sha256, task.plan.name, counts.edges, METHOD, tensors, counts.unseen)


def tabulate_part(table: RangesTable, counts: Counts, prepared: Graph, part: slice) -> RangesTable:
    """Return the table of ranges for a graph that runs only some range groups, given the table of all groups. The other
    groups get the ranges of the nearest group in `part`, and do not affect pooled ranges or channel scales."""
    readers = find_readers(prepared)

    def search_ranges(name: str) -> Ranges:
        groups, known = counts.group_histograms(name), table.tensors[name].each_group
        ranges = mse_ranges(groups[part], counts.samples, readers(name), known[part])
        return extend_ranges(ranges, part, len(groups))

    names = tuple(table.tensors)
    return replace(table, tensors=dict(zip(names, imap_threads(search_ranges, names), strict=True)))
