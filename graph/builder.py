"""A graph in the making: nodes one after the other, and whole graphs put between them under names of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fewstep.graph.graph import BATCH, Array, Extent, Graph, Node, Value
from fewstep.plans.plan import Tensor, tensor_values

Coefficient = float | str  # a number, or the name of a tensor of one element


@dataclass
class Builder:
    """Nodes and constants so far. New tensors are called PREFIX/NAME; no tensor of a bundle's graphs has a slash."""

    prefix: str
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    described: dict[str, Value] = field(default_factory=dict)
    optional: dict[str, Value] = field(default_factory=dict)

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node of one output; returns its name."""
        (name,) = self.multi_output_node(op, inputs, (output,), **attributes)
        return name

    def node_once(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        """One node of one output, unless it is there; returns its name."""
        name = f"{self.prefix}/{output}"
        is_there = any(name in node.outputs for node in self.nodes)
        return name if is_there else self.node(op, inputs, output, **attributes)

    def multi_output_node(
        self, op: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> tuple[str, ...]:
        """One node of any number of outputs; returns their names."""
        names = tuple(f"{self.prefix}/{output}" for output in outputs)
        self.nodes.append(Node(op, tuple(inputs), names, attributes))
        return names

    def identity(self, source: str, name: str) -> None:
        """The tensor under a name that is not the builder's: an output of the graph."""
        self.nodes.append(Node("Identity", (source,), (name,)))

    def constant(self, value: Array, name: str) -> str:
        """A constant under a name of the builder's; returns that."""
        self.constants[f"{self.prefix}/{name}"] = value
        return f"{self.prefix}/{name}"

    def number(self, value: float) -> str:
        """A float32 number, once however often it is asked for."""
        return self.constant(np.asarray(value, np.float32), str(np.float32(value)))

    def tensor(self, tensor: Tensor, number: int) -> str:
        """A plan's tensor in float32."""
        return self.constant(tensor_values(tensor).astype(np.float32), f"tensor_{number}")

    def combine(self, row: Sequence[Coefficient], tensors: Sequence[str], name: str) -> str:
        """sum_j row[j] * tensors[j], in order, as `runtime.sampling.execute.combine`: zeros are skipped, ones need no
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
        """The nodes of a graph, reading `inputs` in the place of its inputs; returns the names of its outputs here.

        Its tensors are called UNDER/NAME, and its constants SHARED/NAME, where several copies of it share them. `batch`
        names the leading axis of its inputs, whose types are described then: an inference engine fuses two operations
        only where it knows that their shapes are equal, and fusions change bits.
        """
        names = {name: f"{shared or under}/{name}" for name in graph.constants}
        self.constants |= {names[name]: value for name, value in graph.constants.items()}
        names |= {value.name: inputs[value.name] for value in graph.inputs} | {"": ""}
        names |= {value.name: value.name for value in graph.optional}  # all copies read the same
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
        """Takes over the nodes of another builder, under their own names."""
        self.nodes += other.nodes
        self.constants |= other.constants
        self.described |= other.described
        self.optional |= other.optional

    def graph(self, inputs: Sequence[Value], outputs: Sequence[Value], extents: Mapping[str, Extent]) -> Graph:
        """The graph of all nodes so far, between these ports."""
        ports = {value.name for value in (*inputs, *outputs)}
        described = tuple(value for name, value in self.described.items() if name not in ports)
        nodes = tuple(self.nodes)
        optional = tuple(self.optional.values())
        return Graph(self.prefix, tuple(inputs), tuple(outputs), nodes, self.constants, extents, described, optional)
