"""The recipe of a body: a prepared graph, its ranges, a target, and the operations in float."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

from fewstep.calibration.lowering.coverage import count_coverage
from fewstep.calibration.lowering.quantize import (
    LoweredBody,
    Quantizer,
    cache_quantizer,
    lower,
    lower_graph,
    select_measured_ops,
)
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.precision.ranking import Ranking
from fewstep.calibration.ranges.table import RangesTable
from fewstep.graph.graph import Graph
from fewstep.measure.rollouts.row_by_row import run_row_by_row
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Coverage

Until = int  # exclusive end of the range groups that a graph serves: the first group of the next graph


class OtherGraph(NamedTuple):
    """A graph that a body runs instead of one that all bodies share. `coverage` is None if activations are float."""

    graph: Graph
    coverage: Coverage | None = None


@dataclass(frozen=True)
class GraphRecipe:
    """The recipe of one graph of a body: the ranges of the groups that it serves, and the quantizer of its weights."""

    until: Until
    table: RangesTable
    quantize: Quantizer


@dataclass(frozen=True)
class Recipe:
    """Everything from which an int8 body is made. The operations in `in_float` stay in float; they include those of
    `kept`, which the user chose.

    `table` has the ranges of all groups, `parts` the recipes of the graphs in the order of groups. `keep` writes the
    weights of deployed graphs to files; None keeps them in memory. `ranking` is the order in which operations move to
    float; None if their errors were not measured. `replaces` are graphs that the body runs instead of shared ones.
    """

    prepared: Graph
    table: RangesTable
    target: Target
    parts: tuple[GraphRecipe, ...]
    keep: Callable[[Graph], Graph] | None = None
    in_float: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    ranking: Ranking | None = None
    replaces: Mapping[str, OtherGraph] = field(default_factory=dict)

    def with_float_operations(self, in_float: tuple[str, ...]) -> "Recipe":
        """Return the recipe with these operations in float. Weights are rounded once for all recipes derived from
        it."""
        parts = tuple(replace(part, quantize=cache_quantizer(part.quantize)) for part in self.parts)
        return replace(self, in_float=in_float, parts=parts)

    def rewrite_graphs(self, rewrite: Callable[[Graph], Graph], note: str) -> "Recipe":
        """Return a recipe whose int8 graphs are those of this recipe, changed by `rewrite`. Weights are not rounded
        again. `note` is added to the notes of the bodies."""
        changed = replace(self)
        vars(changed)["graphs"] = tuple(
            (until, replace(body, graph=rewrite(body.graph), notes=(*body.notes, note))) for until, body in self.graphs
        )
        return changed

    @cached_property
    def graphs(self) -> tuple[tuple[Until, LoweredBody], ...]:
        """The graphs to deploy, in the order of the groups that they serve."""
        if self.is_float:
            return ((self.parts[-1].until, LoweredBody(self.prepared, count_coverage(self.prepared, ()), (), ())),)
        rest = self.target, self.in_float, self.keep
        return tuple((part.until, lower(self.prepared, part.table, *rest, part.quantize)) for part in self.parts)

    def lower_unchecked(self) -> list[tuple[Until, Graph]]:
        """Return only the graphs, lowered but not checked on an engine."""
        if self.is_float:
            return [(self.parts[-1].until, self.prepared)]
        return [
            (part.until, lower_graph(self.prepared, part.table, self.target, self.in_float, part.quantize).graph)
            for part in self.parts
        ]

    @property
    def is_float(self) -> bool:
        """Whether all operations stay in float."""
        names = {op.name for op in select_measured_ops(self.prepared, self.table, self.target.scheme)}
        return names <= set(self.in_float)


def open_graphs(graphs: Sequence[tuple[Until, Graph]], target: Target, by_rows: bool = False) -> list[LoadedGraph]:
    """Open the graphs of a recipe, and return one for each range group.

    by_rows: run a graph on one sample of a batch at a time.
    """
    opened: list[LoadedGraph] = []
    for until, graph in graphs:
        loaded = target.runs(graph)
        opened += [run_row_by_row(loaded, graph.inputs) if by_rows else loaded] * (until - len(opened))
    return opened
