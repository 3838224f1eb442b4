"""What all rows of a calibration share: its trajectories, counted once, and the int8 body that a row makes of them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, reduce

from benchmarks.choices.hessians import Hessians, layer_hessians
from benchmarks.choices.opening import deployed
from fewstep.calibration.count import count_activations, tabulate
from fewstep.calibration.task import Task
from fewstep.graph.graph import Graph
from fewstep.graph.selection import WeightedOp
from fewstep.lowering.quantize import Quantizer, lower_graph, lower_ops, lowered_ops
from fewstep.lowering.scheme import Target
from fewstep.lowering.targets.cpu_x86 import CPU_X86
from fewstep.ranges.histogram import merge
from fewstep.ranges.observe import Counts
from fewstep.ranges.table import Method, RangesTable
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.progress import SILENT, Progress


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
        return count_activations(self.task, self.progress)

    @property
    def pooled(self) -> Counts:
        """One histogram for all steps."""
        whole = {(name, 0): reduce(merge, self.deployed.of(name)) for name in self.deployed.tensors}
        return replace(self.deployed, edges=(), histograms=whole)

    @cached_property
    def hessians(self) -> Hessians:
        return layer_hessians(self.task, self.ops, self.progress)

    @property
    def ops(self) -> tuple[WeightedOp, ...]:
        return lowered_ops(self.task.prepared)

    def table(self, counts: Counts, method: Method = "channels") -> RangesTable:
        return tabulate(counts, self.task.prepared, "0" * 64, self.task.plan.name, method)

    @cached_property
    def usual(self) -> RangesTable:
        return self.table(self.deployed)

    def lowered(self, table: RangesTable, target: Target = CPU_X86) -> Body:
        graph, _, _ = lower_graph(self.task.prepared, table, target)
        return Body(graph, table.groups)

    def with_weights(self, quantize: Quantizer) -> Body:
        """Lowered as usual, but for how weights become integers."""
        graph, _, _ = lower_ops(self.task.prepared, self.usual, CPU_X86, self.ops, quantize)
        return Body(graph, self.usual.groups)
