"""The additions of a pass to a graph: tensors under names that the graph does not have yet."""

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np

from fewstep.graph.graph import Array, Graph


class NewNodes:
    """Names and constants for the new nodes of one pass. `constants` go to `Graph.with_nodes`."""

    def __init__(self, graph: Graph) -> None:
        outputs = (output for node in graph.nodes for output in node.outputs)
        self._graph = graph
        self._taken = {value.name for value in (*graph.inputs, *graph.optional)} | set(graph.constants) | {*outputs}
        self.constants: dict[str, Array] = {}

    def name(self, wanted: str) -> str:
        """`wanted`, or with a number behind it where a tensor is called that already."""
        name = next(name for name in numbered_names(wanted) if name not in self._taken)
        self._taken.add(name)
        return name

    def constant(self, wanted: str, value: Array) -> str:
        """The name of a constant of this value: one that exists under such a name, or a new one."""
        for name in numbered_names(wanted):
            existing = self.constants.get(name, self._graph.constants.get(name))
            if existing is not None and existing.dtype == value.dtype and np.array_equal(existing, value):
                return name
            if name not in self._taken:
                break
        self._taken.add(name)
        self.constants[name] = value
        return name

    def shape(self, sizes: Sequence[int]) -> str:
        """The name of a constant int64 of these sizes, as the target of a Reshape."""
        return self.constant("shape_" + "x".join(map(str, sizes)), np.asarray(sizes, np.int64))


def numbered_names(name: str) -> Iterator[str]:
    """name, name_2, name_3, ..."""
    yield name
    for number in count(2):
        yield f"{name}_{number}"
