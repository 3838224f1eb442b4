"""The description of a lowering as values: a `Target` holds everything that differs between targets."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from fewstep.calibration.lowering.encoding import Encoding
from fewstep.calibration.ranges.table import Ranges
from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.selection import WeightedOp
from fewstep.graph.types import Types
from fewstep.graph.weight_quantization import QuantizedWeight
from fewstep.runtime.backends import LoadedGraph
from fewstep.runtime.bundle.manifest import Coverage
from fewstep.runtime.bundle.platforms import Platform
from fewstep.runtime.bundle.reading import Bundle


@dataclass(frozen=True)
class Replacement:
    """The nodes that replace one operation in the int8 graph, and the constants that they need. Scales of activations
    are added separately."""

    nodes: tuple[Node, ...]
    constants: dict[str, Array]


@dataclass(frozen=True)
class Form:
    """The ONNX nodes that compute in 8 bits.

    quantize: returns the nodes that encode an activation, once per tensor.
    operation: returns the nodes that replace a weighted operation.
    encodes_output: returns whether an operation also needs the scale of its output.
    """

    quantize: Callable[[str], tuple[Node, ...]]
    operation: Callable[[WeightedOp, QuantizedWeight], Replacement]
    encodes_output: Callable[[WeightedOp], bool]


class Arithmetic(Protocol):
    """A function that adds nodes to a graph which emulate parts of a quantization that an engine's int8 operations
    lack, such as zero points."""

    def __call__(
        self,
        prepared: Graph,
        ops: Sequence[WeightedOp],
        codes: Mapping[str, Encoding],
        weights: Mapping[str, QuantizedWeight],
        dtype: np.dtype[Any],
        /,
    ) -> tuple[Graph, tuple[WeightedOp, ...], dict[str, Encoding]]:
        """Return the graph with the added nodes, and the operations and codes with which it is to be lowered: the
        operations read and write the tensors between the added nodes, and the codes lack the emulated parts. `weights`
        are by operation; `dtype` is the compute type of the lowered graph."""
        ...


@dataclass(frozen=True)
class Placement:
    """How a target rounds some activations, by their names.

    bare: activations that are rounded without multipliers and zero points.
    pooled: activations with one scale for all groups.
    """

    bare: frozenset[str] = frozenset()
    pooled: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Scheme:
    """The number formats of a target.

    encode: the code of an activation from its ranges, per lambda group or pooled.
    scale_dtype: the type of all scales, and of all computation outside int8.
    in_pairs: whether the sums of pairs of a weight's integers are limited (`graph/weight_pairs.py`).
    arithmetic: emulates, by nodes of the graph, parts of codes that engines do not support: per-group scales, or zero
        points.
    least_gain: the least gain of per-channel scales over one scale (`calibration.ranges.channel_scales.channel_gain`,
        in dB), for the graph's largest activation. Smaller activations need less, in proportion to their size, because
        the product may take time. A negative value is for engines that fuse the product, and is the same for all sizes.
    no_floats: True if engines take no floats: every tensor has a code for its full range, and every weight is int8.
    narrow: True if the operations that `select_int8_ops` chooses read 8 bits, and all other tensors have 16.
    placing: how activations are rounded, given the prepared graph and the operations that read them; None: all alike.
    one_scale: the ONNX operators whose weights have one scale for all output channels, e.g. "Conv".
    weight_bits: bits of the weights of matrix products, if weights alone are quantized; None if activations are too.
    int8_attention: whether engines multiply the operands of large attention in int8, if pairs precede its products.
    """

    encode: Callable[[Ranges, bool], Encoding]
    scale_dtype: np.dtype[Any]
    form: Form
    in_pairs: bool = False
    arithmetic: tuple[Arithmetic, ...] = ()
    least_gain: float = 0.0
    no_floats: bool = False
    narrow: bool = False
    placing: Callable[[Graph, Sequence[WeightedOp]], Placement] | None = None
    one_scale: frozenset[str] = frozenset()
    int8_attention: bool = False
    weight_bits: int | None = None

    def place_roundings(self, prepared: Graph, ops: Sequence[WeightedOp]) -> Placement:
        """Return the placement that `placing` chooses for a graph. If `placing` is None, all activations are treated
        alike."""
        return Placement() if self.placing is None else self.placing(prepared, ops)


def find_no_slower_operations(prepared: Graph, ops: Sequence[WeightedOp]) -> frozenset[str]:
    """Return no operations, for a target whose operations are all faster in int8."""
    return frozenset()


@dataclass(frozen=True)
class Target:
    """The target of a lowering.

    platform: where its bodies run, and its name.
    rewrites: rewrites of the prepared graph, applied first. They keep the names of the inputs and outputs of operations
        with weights.
    passes: rewrites that follow, applied to the graph without the weights that become integers. They keep the same
        names.
    most_graphs: the maximum number of graphs of a body, each with the ranges of its own steps, if sample quality needs
        them.
    wider: the target that replaces this one if an activation exceeds the float type.
    slower: returns the names of the operations that are slower in int8 than in float, given the prepared graph and the
        operations that may be int8.
    finish: rewrites of the lowered graph, given the types of the prepared one and the codes of activations.
    check: returns the coverage by operations that really run in int8, given the prepared graph, the lowered one and the
        operations selected. Raises UserError naming an operation that does not run in int8.
    runs: opens the lowered graph for judging, as close to deployment as this machine allows: on its engine, or
        simulated (`open_simulated`). Feeds without an input are ignored.
    needs: imports what the check or the engine requires besides onnxruntime, and raises UserError if it is not
        installed. None if nothing else is required.
    tries: loads the float graphs of a bundle on the engine, before anything is measured. Raises UserError if it cannot
        run them, or computes them incorrectly.
    companions: the target whose form text encoder and autoencoder have, which ONNX Runtime runs on the CPU for every
        engine. None if they stay float.
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
    companions: "Target | None" = None

    @property
    def name(self) -> str:
        return self.platform.name
