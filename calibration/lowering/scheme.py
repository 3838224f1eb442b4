"""The aims of a lowering, as values: a Target says everything that differs between targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fewstep.calibration.lowering.encoding import Encoding
from fewstep.calibration.lowering.weights import QuantizedWeight
from fewstep.calibration.ranges.table import LARGEST_WEIGHT, Ranges
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.selection import WeightedOp
from fewstep.graph.types import Types
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Coverage
from fewstep.runtime.bundle.platforms import Platform
from fewstep.runtime.bundle.reading import Bundle


@dataclass(frozen=True)
class Replacement:
    """Nodes that take the place of one operation, and the constants that they need. Scales of activations come
    apart."""

    nodes: tuple[Node, ...]
    constants: dict[str, Array]


@dataclass(frozen=True)
class Form:
    """The ONNX nodes that compute in 8 bits.

    quantize: the nodes that encode an activation for operations, once per tensor.
    operation: the nodes that take the place of a weighted operation.
    encodes_output: True if an operation also needs the scale of its output.
    """

    quantize: Callable[[str], tuple[Node, ...]]
    operation: Callable[[WeightedOp, QuantizedWeight], Replacement]
    encodes_output: Callable[[WeightedOp], bool]


class Arithmetic(Protocol):
    """Nodes of the graph for a part of codes."""

    def __call__(
        self,
        prepared: Graph,
        ops: Sequence[WeightedOp],
        codes: Mapping[str, Encoding],
        weights: Mapping[str, QuantizedWeight],
        dtype: np.dtype[Any],
        /,
    ) -> tuple[Graph, tuple[WeightedOp, ...], dict[str, Encoding]]:
        """The graph with the nodes, the operations between them and the codes that are left, to lower it with.
        `weights` are by operation; `dtype` is what the lowered graph computes in."""
        ...


@dataclass(frozen=True)
class Placement:
    """The form of a target's roundings of some activations, by their names.

    bare: activations that are rounded as they are, without multipliers and zero points.
    pooled: activations with one scale for all groups.
    """

    bare: frozenset[str] = frozenset()
    pooled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Scheme:
    """The representation of numbers.

    encode: the code of an activation from its ranges, per lambda group or pooled.
    scale_dtype: the type of all scales, and of all computation outside int8.
    largest_weight: the greatest magnitude of a weight's integers.
    arithmetic: what engines do not take of codes, as nodes of the graph: scales of groups, or zero points.
    least_gain: the gain that scales of channels need over one scale (`calibration.ranges.channel_scales.channel_gain`,
        in dB), for the graph's largest activation. Smaller ones need less, in proportion to their size: the product may
        take time. A negative gain is for engines that fuse the product, and is the same for all sizes.
    no_floats: True if engines take no float: every tensor has a code for all that it reached, and every weight is
        int8.
    narrow: True if inner operations with weights (`select_int8_ops`) then read 8 bits, where all else has 16.
    placing: how activations are rounded, given the prepared graph and the operations that read them; None: all alike.
    one_scale: the operations whose weights have one scale for all output channels, as "Conv".
    """

    encode: Callable[[Ranges, bool], Encoding]
    scale_dtype: np.dtype[Any]
    form: Form
    largest_weight: int = LARGEST_WEIGHT
    arithmetic: tuple[Arithmetic, ...] = ()
    least_gain: float = 0.0
    no_floats: bool = False
    narrow: bool = False
    placing: Callable[[Graph, Sequence[WeightedOp]], Placement] | None = None
    one_scale: frozenset[str] = frozenset()

    def place_roundings(self, prepared: Graph, ops: Sequence[WeightedOp]) -> Placement:
        """`placing` of a graph; everywhere alike without one."""
        return Placement() if self.placing is None else self.placing(prepared, ops)


def find_no_slower_operations(prepared: Graph, ops: Sequence[WeightedOp]) -> frozenset[str]:
    """A target whose operations all win by int8."""
    return frozenset()


@dataclass(frozen=True)
class Target:
    """The target of a lowering.

    platform: where its bodies run, and its name.
    rewrites: rewrites of the prepared graph ahead of all else; they keep the names of the tensors that operations with
        weights read and make.
    passes: rewrites behind them, which do not see the weights that become integers; they keep the same names.
    most_graphs: the most graphs of a body, each with ranges of its own steps, where samples need them.
    wider: the target that takes its place where an activation is beyond the float type.
    slower: the names of operations that take more time in int8 than in float, of the prepared graph and operations that
        may be int8.
    finish: rewrites of the lowered graph, given the types of the prepared one and the codes of activations.
    check: counts what really runs in int8, given the prepared graph, the lowered one and the operations selected;
        UserError names an operation that does not.
    runs: opens the lowered graph to be judged, as near to its deployment as this machine comes: on its engine, or as
        `simulated`. It takes no notice of feeds that the graph has no input for.
    needs: imports what its check or its engine takes next to onnxruntime; UserError if it is not there. None: nothing.
    tries: loads the float graphs of a bundle on the engine, before anything is measured; UserError if it runs them not
        at all, or wrong.
    """

    platform: Platform
    scheme: Scheme
    passes: tuple[Callable[[Graph], Graph], ...]
    check: Callable[[Graph, Graph, tuple[WeightedOp, ...]], Coverage]
    runs: Callable[[Graph], LoadedGraph]
    needs: Callable[[], object] | None = None
    tries: Callable[[Bundle], object] | None = None
    rewrites: tuple[Callable[[Graph], Graph], ...] = ()
    finish: tuple[Callable[[Graph, Types, Mapping[str, Encoding]], Graph], ...] = ()
    most_graphs: int = 1
    wider: "Target | None" = None
    slower: Callable[[Graph, Sequence[WeightedOp]], frozenset[str]] = find_no_slower_operations

    @property
    def name(self) -> str:
        return self.platform.name
