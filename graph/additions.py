"""New tensors that a pass adds to a graph, under names that the graph does not use yet; unique names of nodes."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from fewstep.graph.graph import Array, Graph


class NewNodes:
    """Creates names and constants for the new nodes of one pass. Pass `constants` to `Graph.with_nodes`."""

    def __init__(self, graph: Graph) -> None:
        outputs = (output for node in graph.nodes for output in node.outputs)
        self._graph = graph
        self._taken = {value.name for value in (*graph.inputs, *graph.optional)} | set(graph.constants) | {*outputs}
        self.constants: dict[str, Array] = {}

    def name(self, wanted: str) -> str:
        """Return an unused tensor name: `wanted`, with a number appended if it is already taken."""
        name = next(name for name in number_names(wanted) if name not in self._taken)
        self._taken.add(name)
        return name

    def constant(self, wanted: str, value: Array) -> str:
        """Add a constant, and return its name: `wanted`, or `wanted` with a number if another tensor has that name. A
        constant with the same name and value is reused."""
        for name in number_names(wanted):
            existing = self.constants.get(name, self._graph.constants.get(name))
            if existing is not None and existing.dtype == value.dtype and np.array_equal(existing, value):
                return name
            if name not in self._taken:
                break
        self._taken.add(name)
        self.constants[name] = value
        return name

    def shape(self, sizes: Sequence[int]) -> str:
        """Return the name of an int64 constant with these sizes, for the shape input of a Reshape."""
        return self.constant("shape_" + "x".join(map(str, sizes)), np.asarray(sizes, np.int64))


def number_names(name: str) -> Iterator[str]:
    """Yield name, name_2, name_3, ..."""
    yield name
    for number in count(2):
        yield f"{name}_{number}"


def unique_node_names(graph: Graph) -> Iterator[str]:
    """Yield a unique name for each node, since onnxruntime refuses duplicate names."""
    used: set[str] = set()
    for node in graph.nodes:
        name = next(name for name in number_names(node.name or node.output) if name not in used)
        used.add(name)
        yield name
