"""Build a graph: add nodes in order, and inline whole graphs with a prefix before the names of their tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fewstep.graph.graph import BATCH, Array, Extent, Graph, Node, Value
from fewstep.plans.plan import Tensor, tensor_values

Coefficient = float | str  # a number, or the name of a tensor of one element


@dataclass
class Builder:
    """The nodes and constants that were added so far. New tensors are named PREFIX/NAME. Such names do not collide with
    those in a bundle's graphs, which have no slash."""

    prefix: str
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    described: dict[str, Value] = field(default_factory=dict)
    optional: dict[str, Value] = field(default_factory=dict)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output; return the output's name."""
        (name,) = self.multi_output_node(op, inputs, (output,), **attributes)
        return name

    def node_once(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """Append a node with one output unless it exists already; return the output's name."""
        name = f"{self.prefix}/{output}"
        is_there = any(name in node.outputs for node in self.nodes)
        return name if is_there else self.node(op, inputs, output, **attributes)

    def multi_output_node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """Append a node with any number of outputs; return their names."""
        names = tuple(f"{self.prefix}/{output}" for output in outputs)
        self.nodes.append(Node(op, tuple(inputs), names, attributes))
        return names

    def identity(self, source: str, name: str) -> None:
        """Copy a tensor to an unprefixed name, such as an output of the graph."""
        self.nodes.append(Node("Identity", (source,), (name,)))

    def constant(self, value: Array, name: str) -> str:
        """Add a constant under a prefixed name; return that name."""
        self.constants[f"{self.prefix}/{name}"] = value
        return f"{self.prefix}/{name}"

    def number(self, value: float) -> str:
        """Add a float32 scalar, at most once per value; return its name."""
        return self.constant(np.asarray(value, np.float32), str(np.float32(value)))

    def tensor(self, tensor: Tensor, number: int) -> str:
        """Add a tensor of a plan in float32; return its name."""
        return self.constant(tensor_values(tensor).astype(np.float32), f"tensor_{number}")

    def combine(self, row: Sequence[Coefficient], tensors: Sequence[str], name: str) -> str:
        """Add the nodes that compute sum_j row[j] * tensors[j], in this order, as `runtime.sampling.execute.combine`
        does. Return the name of the sum. Terms with coefficient 0 are left out, and those with coefficient 1 need no
        Mul."""
        total = ""
        for j, (coefficient, tensor) in enumerate(zip(row, tensors, strict=True)):
            if coefficient == 0.0:
                continue
            term = tensor
            if coefficient != 1.0:
                scale = coefficient if isinstance(coefficient, str) else self.number(coefficient)
                term = self.node("Mul", (tensor, scale), f"{name}_term_{j}")
            total = self.node("Add", (total, term), f"{name}_sum_{j}") if total else term
        return total or self.node("Sub", (tensors[0], tensors[0]), f"{name}_zero")

    def inline_graph(
        self, graph: Graph, inputs: Mapping[str, str], under: str, shared: str | None = None, batch: str = ""
    ) -> dict[str, str]:
        """Add the nodes of a graph, with the tensors `inputs` in place of its inputs. Return the new names of its
        outputs.

        Its tensors are renamed UNDER/NAME, and its constants SHARED/NAME, so that several copies can share them. If
        `batch` is given, the types of its inputs are written to the file, with this name for the leading axis: an
        inference engine fuses two operations only if it knows that their shapes are equal, and fusions change bits.
        """
        names = {name: f"{shared or under}/{name}" for name in graph.constants}
        self.constants |= {names[name]: value for name, value in graph.constants.items()}
        names |= {value.name: inputs[value.name] for value in graph.inputs} | {"": ""}
        names |= {value.name: value.name for value in graph.optional}  # all copies read the same constant
        self.optional |= {value.name: value for value in graph.optional}
        names |= {output: f"{under}/{output}" for node in graph.nodes for output in node.outputs if output}
        for value in graph.inputs:
            if batch and value.shape[:1] == (BATCH,):
                self.described[names[value.name]] = Value(names[value.name], value.dtype, (batch, *value.shape[1:]))
        for node in graph.nodes:
            read, made = (tuple(names[name] for name in tensors) for tensors in (node.inputs, node.outputs))
            self.nodes.append(replace(node, inputs=read, outputs=made, name=f"{under}/{node.name or node.output}"))
        return {value.name: names[value.name] for value in graph.outputs}

    def add(self, other: "Builder") -> None:
        """Add the nodes of another builder, with their names unchanged."""
        self.nodes += other.nodes
        self.constants |= other.constants
        self.described |= other.described
        self.optional |= other.optional

    def graph(self, inputs: Sequence[Value], outputs: Sequence[Value], extents: Mapping[str, Extent]) -> Graph:
        """Return the graph of all nodes added so far, with these inputs, outputs and free sizes."""
        ports = {value.name for value in (*inputs, *outputs)}
        described = tuple(value for name, value in self.described.items() if name not in ports)
        nodes = tuple(self.nodes)
        optional = tuple(self.optional.values())
        return Graph(self.prefix, tuple(inputs), tuple(outputs), nodes, self.constants, extents, described, optional)
