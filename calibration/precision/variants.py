"""The prepared graph lowered with some operations left in float, opened as it would be deployed."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property

from fewstep.calibration.lowering.coverage import count
from fewstep.calibration.lowering.quantize import (
    LoweredBody,
    Quantizer,
    as_it_is,
    lower,
    lower_graph,
    measured_ops,
    remembered,
    rounding,
)
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.ranges.moments import Moments
from fewstep.calibration.ranges.table import RangesTable
from fewstep.graph.graph import Graph
from fewstep.graph.session import GraphSession, open_session


@dataclass(frozen=True)
class Variants:
    """All the graphs that one prepared graph, its ranges and a target give. `keep` is what `lower` does with those that
    are deployed. `body` is the body with no more than `spared` in float, where it is there already. `moments` are those
    that weights are rounded by. `threads` are those of a session, 0 for one per core. `spared` are operations that stay
    in float whatever else does. `quantizer` rounds weights, and remembers them; by default one is made."""

    prepared: Graph
    table: RangesTable
    target: Target
    keep: Callable[[Graph], Graph] = as_it_is
    body: LoweredBody | None = None
    threads: int = 0
    moments: Moments | None = None
    spared: tuple[str, ...] = ()
    quantizer: Quantizer | None = None

    @cached_property
    def operations(self) -> tuple[str, ...]:
        """What may be int8 or float, by name, in the graph's order."""
        every = (op.name for op in measured_ops(self.prepared, self.table, self.target.scheme))
        return tuple(name for name in every if name not in self.spared)

    def open(self, in_float: Collection[str] = ()) -> GraphSession:
        """As it is deployed, but with threads that do not spin: several are open at once."""
        return open_session(self.graph(in_float), optimize=True, arena=True, threads=self.threads)

    def lower(self, in_float: Collection[str]) -> LoweredBody:
        """The graph to deploy, with what really runs in int8 counted."""
        if self._is_float(in_float):
            return LoweredBody(self.prepared, count(self.prepared, ()), (), ())
        if not in_float:
            return self._int8
        return self._lowered(in_float, self._quantize)

    def graph(self, in_float: Collection[str] = ()) -> Graph:
        """The graph alone; one with some operations in float is not checked on an engine."""
        if self._is_float(in_float):
            return self.prepared
        if not in_float:
            return self._int8.graph
        return lower_graph(self.prepared, self.table, self.target, (*in_float, *self.spared), self._quantize)[0]

    @cached_property
    def _int8(self) -> LoweredBody:
        """With no more than `spared` in float, made once: it is deployed, hashed, and what all others are measured
        against."""
        quantize = self.quantizer or rounding(self.table, self.target, self.moments)  # whose weights may wait in files
        return self.body or self._lowered((), quantize)

    def _lowered(self, in_float: Collection[str], quantize: Quantizer) -> LoweredBody:
        return lower(self.prepared, self.table, self.target, (*in_float, *self.spared), self.keep, quantize)

    @cached_property
    def _quantize(self) -> Quantizer:
        """For many lowerings."""
        return self.quantizer or remembered(rounding(self.table, self.target, self.moments))

    def _is_float(self, in_float: Collection[str]) -> bool:
        return set(in_float) >= set(self.operations)
