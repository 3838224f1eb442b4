"""What all rows of a calibration share: its trajectories, counted once, and the int8 body that a row makes of them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

from choices.hessians import Hessians, layer_hessians
from choices.opening import deployed

from fewstep.calibration.count import batch_of, count_activations, ranges_table
from fewstep.calibration.inputs import Distribution, long_plan, taken
from fewstep.calibration.task import Task
from fewstep.graph.graph import Graph
from fewstep.graph.selection import WeightedOp
from fewstep.lowering.quantize import Quantizer, lower_graph, lower_ops, lowered_ops
from fewstep.lowering.scheme import Target
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.ranges.observe import Counts, open_watched
from fewstep.ranges.table import Method, RangesTable
from fewstep.rollouts.trajectories import roll_out
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.progress import SILENT, Progress

LONG: tuple[Distribution, ...] = ("uniform", "normal", "interval")


@dataclass(frozen=True)
class Body:
    """An int8 graph, the edges of its lambda groups, and what runs it."""

    graph: Graph
    edges: tuple[float, ...]
    open: Callable[[Graph], LoadedGraph] = deployed


@dataclass(frozen=True)
class Seen:
    """One calibration. What several rows need of its trajectories is measured when the first of them asks."""

    task: Task
    progress: Progress = SILENT

    @cached_property
    def deployed(self) -> Counts:
        return count_activations(self.task, "deployed", self.progress)

    @cached_property
    def elsewhere(self) -> Mapping[Distribution, Counts]:
        """All distributions over the long trajectory, which is run once."""
        empty = Counts.empty(self.task.prepared, self.task.edges, len(self.task.seeds))
        counts: dict[Distribution, Counts] = {name: replace(empty, histograms={}) for name in LONG}
        watched = open_watched(self.task.prepared, self.deployed.tensors)
        sampler, plan = replace(self.task.sampler, denoiser=watched), long_plan(self.task)
        batch = batch_of(self.task, self.deployed.tensors)
        for evaluation in roll_out(sampler, plan, self.task.seeds, self.progress, batch, self.task.conditions):
            for name in LONG:
                part = taken(evaluation, name, len(self.task.plan.steps), len(plan.steps))
                if part.seeds:
                    counts[name].add(part)
        return {name: each.filled() for name, each in counts.items()}

    @cached_property
    def hessians(self) -> Hessians:
        return layer_hessians(self.task, self.ops, self.progress)

    @property
    def ops(self) -> tuple[WeightedOp, ...]:
        return lowered_ops(self.task.prepared)

    def table(self, counts: Counts, method: Method = "channels") -> RangesTable:
        return ranges_table(counts, self.task.prepared, "0" * 64, self.task.plan.name, method)

    @cached_property
    def usual(self) -> RangesTable:
        return self.table(self.deployed)

    def lowered(self, table: RangesTable, target: Target = CPU_X86) -> Body:
        graph, _, _ = lower_graph(self.task.prepared, table, target)
        return Body(graph, table.groups)

    def with_weights(
        self, quantize: Quantizer, target: Target = CPU_X86, ops: tuple[WeightedOp, ...] | None = None
    ) -> Body:
        """Lowered as usual, but for how weights become integers, or which operations are lowered."""
        graph, _, _ = lower_ops(self.task.prepared, self.usual, target, self.ops if ops is None else ops, quantize)
        return Body(graph, self.usual.groups)
