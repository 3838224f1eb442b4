"""An ONNX graph as immutable values, with its weights as numpy arrays. Passes work on it.

A pass returns a new Graph that shares every unchanged node and array. So a chain of passes copies no weights, and a
pass never changes its input graph.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.kinds.graph_entry import CARRIED

Array = NDArray[Any]
OPSET = 20  # opset of the files that fewstep reads and writes
DEFAULT_DOMAIN = "ai.onnx"  # the second name of ONNX's default domain, whose first name is ""
BATCH = "batch"  # the name of the dynamic dimension of every graph, the leading axis of its inputs and outputs
# A denoiser's ports; conditions and rows have their own names.
X, TIME, TO, GROUP, OUTPUT = "x", "time", "time_to", "group", "output"


def varies_per_call(port: str) -> bool:
    """Return True if an input of a denoiser differs at every call: x and carried state."""
    return port == X or port.startswith(CARRIED)


@dataclass(frozen=True)
class Node:
    """One operation. Attributes hold the results of `onnx.helper.get_attribute_value` (ints, floats, bytes, lists).

    The body of a Loop is an attribute of type Graph. Only graphs written to files have such nodes, and passes do not
    rewrite their bodies.
    """

    op: str
    inputs: tuple[str, ...]  # "" for an omitted optional input
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""
    domain: str = ""

    @property
    def output(self) -> str:
        """The first output, the only one for most operations."""
        return self.outputs[0]


@dataclass(frozen=True)
class Extent:
    """The range of a named dimension: multiples of `multiple` from `low` to `high`; `usual` is the default."""

    usual: int
    low: int
    high: int
    multiple: int = 1


@dataclass(frozen=True)
class Value:
    """A graph input or output: its name, dtype and shape. "batch" in the shape is the dynamic batch axis.

    Other free axes have the name of a size, or an expression of it, like "height/8"; see `extents.py`.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """A graph with its nodes in topological order. `constants` are its weights and other known tensors, by name.

    `extents` are the free sizes besides the batch, like "height". `described` are inner tensors whose shapes a reader
    of the file could not infer. `optional` are inputs that a caller may omit. An omitted input consists of zeros, with
    one element along its free axis. `opset` is the version of ONNX in a file; all definitions are those of OPSET.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    extents: Mapping[str, Extent] = field(default_factory=dict)
    described: tuple[Value, ...] = ()
    optional: tuple[Value, ...] = ()
    opset: int = OPSET

    def with_nodes(self, nodes: Iterable[Node], constants: Mapping[str, Array] | None = None) -> "Graph":
        """Return a graph with the same inputs and outputs and other nodes. `constants` are added to those of this
        graph."""
        return replace(self, nodes=tuple(nodes), constants={**self.constants, **(constants or {})})

    def with_ports(self, change: Callable[[Value], Value]) -> "Graph":
        """Return the graph with `change` applied to each input and output."""
        return replace(self, inputs=tuple(map(change, self.inputs)), outputs=tuple(map(change, self.outputs)))

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def walk_graphs(self) -> "Iterator[Graph]":
        """Yield this graph, then the bodies of its loops."""
        yield self
        for node in self.nodes:
            for attribute in node.attributes.values():
                if isinstance(attribute, Graph):
                    yield from attribute.walk_graphs()

    def ops(self) -> tuple[str, ...]:
        """Return the operation types of the nodes in order, for tests and reports."""
        return tuple(node.op for node in self.nodes)


def rename_inputs(node: Node, names: Mapping[str, str]) -> Node:
    """Return the node with each input n in `names` replaced by `names[n]`."""
    inputs = tuple(names.get(name, name) for name in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)
