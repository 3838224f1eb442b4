"""Measure a task: histograms of its activations, and the ranges that follow. Memory depends on the batch."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod

import msgspec
import numpy as np
from numpy.typing import NDArray

from fewstep.calibration.checkpoint import Checkpoint
from fewstep.calibration.counting_job import counting
from fewstep.calibration.inputs import Distribution, counted, evaluations, followed
from fewstep.calibration.task import Task
from fewstep.graph.graph import GROUP, Graph
from fewstep.graph.session import open_session
from fewstep.lowering.bodies import progressive_target
from fewstep.lowering.quantize import lower_graph
from fewstep.machine.threads import one_after_another, while_the_next_comes
from fewstep.ranges.growth import LEAST, reaches, still_growing
from fewstep.ranges.measured_rows import MeasuredRows, are_large, open_counted, taken
from fewstep.ranges.methods import ranges_by_method, tensor_ranges
from fewstep.ranges.observe import Counts, batch_within
from fewstep.ranges.readers import readers_of
from fewstep.ranges.table import Method, Ranges, RangesTable
from fewstep.rollouts.row_by_row import row_by_row
from fewstep.rollouts.trajectories import BATCH, BodyCall, roll_out
from fewstep.runtime.backends import Arrays, LoadedGraph
from fewstep.runtime.progress import SILENT, Progress
from fewstep.runtime.sizes import sized
from fewstep.workers.in_order import Workers, in_order

LOG = logging.getLogger("fewstep")
MEMORY = 2**26  # bytes of activations held at once: rows are run one by one, so holding more wins nothing


def count_activations(
    task: Task,
    inputs: Distribution = "deployed",
    progress: Progress = SILENT,
    kept: Checkpoint | None = None,
    workers: Workers | None = None,
) -> Counts:
    """What the activations of the prepared graph hold, counted by lambda group. `kept` is the task's. `workers` follow
    a trajectory each; without them this process follows all."""
    counts, done = Counts.empty(task.prepared, task.edges, len(task.seeds)), 0
    half = Half(len(task.seeds) // 2)
    own = kept if kept is None or inputs == "deployed" else kept.part(inputs, "trajectories")
    if own is not None:
        counts, done = own.load(counts)
    if workers is None:
        _count_here(task, counts, done, inputs, progress, own, half)
    else:
        job, trajectories = counting(task.after(done), inputs)
        for found in in_order(job, trajectories, workers):
            counts.include(found)
            done += 1
            half.see(counts, done)
            progress("trajectories", done, len(task.seeds))
            if own is not None:
                own.save(counts, done, is_last=done == len(task.seeds))
    half.warn(counts)
    return (counts if inputs == "deployed" else counts.filled()).completed()


@dataclass
class Half:
    """What activations reached in the first `number` trajectories, for a warning of those that still grew. Where a
    calibration goes on behind them it is what they reached a little later, and less is said."""

    number: int
    reached: Mapping[tuple[str, int], NDArray[np.float32]] | None = None

    def see(self, counts: Counts, done: int) -> None:
        if self.reached is None and done >= self.number:
            self.reached = reaches(counts.histograms)

    def warn(self, counts: Counts) -> None:
        if self.reached is None or counts.samples < LEAST:
            return
        grown = still_growing(self.reached, counts.histograms)
        if grown:
            LOG.warning(
                "%d of %d activations still grew in the last half of the trajectories, %r most (channel %d, by %.0f %%"
                " of its reach): samples to come may be clipped; follow more (--trajectories %d)",
                *(len(grown), len(counts.tensors), grown[0].tensor, grown[0].channel, 100 * grown[0].share),
                2 * counts.samples,
            )


def _count_here(
    task: Task,
    counts: Counts,
    done: int,
    inputs: Distribution,
    progress: Progress,
    own: Checkpoint | None,
    half: "Half",
) -> None:
    """Count the trajectories behind the first `done`, in batches, each while the next one is evaluated, unless that is
    large."""
    watched = open_counted(task.prepared, counts, task.threads)
    steps = len(followed(task, inputs).steps)

    def count(evaluation: BodyCall) -> None:
        nonlocal done
        part = counted(evaluation, inputs, len(task.plan.steps), steps)
        if part.seeds:
            counts.add(part, taken(watched))
        if evaluation.state.index == steps - 1:  # whether any seed sees it or not
            done += len(evaluation.seeds)
            half.see(counts, done)
            if own is not None:
                own.save(counts, done, is_last=done == len(task.seeds))

    batch = batch_of(task, counts.tensors)
    every = evaluations(task.after(done), watched, inputs, progress, batch)
    if isinstance(watched, MeasuredRows):
        for evaluation in every:
            count(evaluation)
    else:
        while_the_next_comes(count, every)


def count_progressively(
    task: Task,
    method: Method,
    progress: Progress = SILENT,
    kept: Checkpoint | None = None,
    workers: Workers | None = None,
) -> Counts:
    """Each group counted on inputs that int8 steps have made: those of the groups before it, lowered with the ranges
    that were found for them (PCR: Tang et al. 2024, arXiv 2311.06322). `workers` do the first pass.

    One pass for each group after the first, each from the start: for N groups some N / 2 times the evaluations of
    float calibration, and a search of ranges before each. Ranges depend on the first target that runs here.
    """
    total = len(task.edges) + 1
    counts = count_activations(task, "deployed", partial(_in_pass, progress, 1, total), kept, workers)
    watched = open_counted(task.prepared, counts, task.threads)
    groups = [task.group(step) for step in task.plan.steps]
    by_name = {target.name: target for target in task.targets}
    target = by_name[progressive_target(tuple(by_name))]
    sampler = replace(task.sampler, denoiser=watched)
    passes, done = None, 0
    if kept is not None:
        passes = kept.part(f"progressive, {method}, {target.name}", "passes over the groups")
        counts, done = passes.load(counts)
    for group, steps in enumerate(later_passes(task)[done:], 1 + done):
        # an intermediate table, never written
        table = ranges_table(counts, task.prepared, "0" * 64, task.plan.name, method)
        int8 = _open_int8(lower_graph(task.prepared, table, target)[0])
        plan = msgspec.structs.replace(task.plan, steps=task.plan.steps[:steps])
        networks = [in_group(int8, of_step) if of_step < group else watched for of_step in groups]
        fresh = replace(counts, histograms={})
        batch, shown = batch_of(task, counts.tensors), partial(_in_pass, progress, 1 + group, total)
        for evaluation in roll_out(sampler, plan, task.seeds, shown, batch, task.conditions, networks, task.sizes):
            if groups[evaluation.state.index] == group:
                fresh.add(evaluation, taken(watched))
        counts.histograms.update(fresh.histograms)
        if passes is not None:
            passes.save(counts, group, is_last=group == len(task.edges))
    return counts


def later_passes(task: Task) -> tuple[int, ...]:
    """How many steps each pass after the first runs, group by group: up to the last one of the group it counts."""
    groups = [task.group(step) for step in task.plan.steps]
    return tuple(1 + max(i for i, of in enumerate(groups) if of == group) for group in range(1, len(task.edges) + 1))


def _in_pass(progress: Progress, number: int, of: int, stage: str, done: int, total: int) -> None:
    progress(f"pass {number} of {of}: {stage}", done, total)


def tabulate(
    counts: Counts,
    prepared: Graph,
    graph_sha256: str,
    plan: str,
    methods: Sequence[Method],
    progress: Progress = SILENT,
) -> dict[Method, RangesTable]:
    """The best ranges of everything that was counted, by each method, and a warning for each activation that is one
    number. Several methods take little more than the time of the slowest."""
    for name in counts.tensors:
        groups = counts.of(name)
        if len({end for histogram in groups for end in (histogram.low, histogram.high)}) == 1:
            LOG.warning("activation %r is always %g: a layer there may be dead", name, groups[0].low)
    tensors: dict[Method, dict[str, Ranges]] = {method: {} for method in methods}
    readers = readers_of(prepared)

    def searched(name: str) -> dict[Method, Ranges]:
        return ranges_by_method(counts.of(name), methods, counts.samples, readers(name))

    every = zip(counts.tensors, one_after_another(searched, counts.tensors), strict=True)
    for done, (name, by_method) in enumerate(every, 1):
        for method, found in by_method.items():
            tensors[method][name] = found
        progress("ranges", done, len(counts.tensors))
    return {
        method: RangesTable(graph_sha256, plan, counts.edges, method, found, counts.unseen)
        for method, found in tensors.items()
    }


def ranges_table(counts: Counts, prepared: Graph, graph_sha256: str, plan: str, method: Method) -> RangesTable:
    """The best ranges of everything that was counted in the prepared graph, by one method."""
    readers = readers_of(prepared)
    tensors = {name: tensor_ranges(counts.of(name), method, counts.samples, readers(name)) for name in counts.tensors}
    return RangesTable(graph_sha256, plan, counts.edges, method, tensors, counts.unseen)


def _open_int8(graph: Graph) -> LoadedGraph:
    """A lowered graph as it is deployed, but row by row, as the float one it takes turns with."""
    return row_by_row(open_session(graph, optimize=True), graph.inputs)


def in_group(network: LoadedGraph, group: int) -> LoadedGraph:
    """A lowered body at one of its range groups; one without groups takes no notice."""
    number = np.array([group], np.int64)

    def run(feeds: Arrays) -> dict[str, NDArray[np.float32]]:
        return network({**feeds, GROUP: number})

    return run


def batch_of(task: Task, tensors: Sequence[str]) -> int:
    """How many trajectories at once."""
    if are_large(task.prepared, tensors):
        return 1
    branches = max(len(step.branches) for step in task.plan.steps)
    usual = prod(task.sampler.bundle.manifest.x_shape)
    largest = max((prod(sized(task.sampler.bundle.manifest, sizes).x_shape) for sizes in task.sizes), default=usual)
    return min(BATCH, batch_within(MEMORY * usual // largest, task.prepared, tensors, branches))
