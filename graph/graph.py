"""An ONNX graph as immutable values, with its weights as numpy arrays: the matter of passes.

A pass returns a new Graph that shares every node and every array it did not touch, so a chain of passes costs no copies
of the weights, and a pass can never damage the graph it was given.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep.runtime.kinds.graph_entry import CARRIED

Array = NDArray[Any]
BATCH = "batch"  # the dynamic dimension that every graph has: the leading axis of its inputs and outputs
# A denoiser's ports; conditions and rows have their own names.
X, TIME, TO, GROUP, OUTPUT = "x", "time", "time_to", "group", "output"


def varies_per_call(port: str) -> bool:
    """True if an input of a denoiser differs at every call: x does, and what is carried."""
    return port == X or port.startswith(CARRIED)


@dataclass(frozen=True)
class Node:
    """One operation. Attributes hold what `onnx.helper.get_attribute_value` gives (ints, floats, bytes, lists).

    The body of a Loop is a Graph among them. Only graphs that are written hold such: no pass looks inside.
    """

    op: str
    inputs: tuple[str, ...]  # "" stands for an optional input left out
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
    """The numbers that a named dimension stands for: multiples of `multiple` from `low` to `high`, `usual` mostly."""

    usual: int
    low: int
    high: int
    multiple: int = 1


@dataclass(frozen=True)
class Value:
    """A graph input or output: name, dtype, and shape, in which "batch" stands for the dynamic axis.

    Other free axes are called after the size that they follow, as "height/8"; see `extents.py`.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """A graph whose nodes stand in topological order. `constants` are its weights and other known tensors, by name.

    `extents` are the free sizes other than the batch, as "height". `described` are inner tensors whose shapes a
    reader of the file would not infer. `optional` are inputs that a caller may leave out: zeros, of one element
    along the free axis of each, stand for them then.
    """

    name: str
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]
    constants: Mapping[str, Array]
    extents: Mapping[str, Extent] = field(default_factory=dict)
    described: tuple[Value, ...] = ()
    optional: tuple[Value, ...] = ()

    def with_nodes(self, nodes: Iterable[Node], constants: Mapping[str, Array] | None = None) -> "Graph":
        """A graph of the same inputs and outputs with other nodes; `constants` are added to the constants of this
        one."""
        return replace(self, nodes=tuple(nodes), constants={**self.constants, **(constants or {})})

    def with_ports(self, change: Callable[[Value], Value]) -> "Graph":
        """The graph with each input and output changed."""
        return replace(self, inputs=tuple(map(change, self.inputs)), outputs=tuple(map(change, self.outputs)))

    def is_constant(self, name: str) -> bool:
        return name in self.constants

    def walk_graphs(self) -> "Iterator[Graph]":
        """This graph, then the bodies of its loops."""
        yield self
        for node in self.nodes:
            for attribute in node.attributes.values():
                if isinstance(attribute, Graph):
                    yield from attribute.walk_graphs()

    def ops(self) -> tuple[str, ...]:
        """Operation types in order: what tests and reports count."""
        return tuple(node.op for node in self.nodes)


def rename_inputs(node: Node, names: Mapping[str, str]) -> Node:
    """The node reading `names[n]` wherever it read n."""
    inputs = tuple(names.get(name, name) for name in node.inputs)
    return node if inputs == node.inputs else replace(node, inputs=inputs)
