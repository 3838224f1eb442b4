"""The search for the tensor in which a difference begins, where only single tensors can be asked for."""

import numpy as np
import pytest

from fewstep.graph.graph import Graph, Node, Value
from fewstep.report.engines.narrowing import _first_alone

FLOAT = np.dtype(np.float32)


@pytest.mark.parametrize("wrong", ["down_0", "down_3", "middle", "up_3", "up_0", "output"])
def test_it_is_found_beside_skip_connections(wrong: str) -> None:
    """A path down and up again, each step up reading the step down of its level."""
    nodes = [Node("Relu", ("x" if level == 0 else f"down_{level - 1}",), (f"down_{level}",)) for level in range(4)]
    nodes.append(Node("Relu", ("down_3",), ("middle",)))
    for level in (3, 2, 1, 0):
        below = "middle" if level == 3 else f"up_{level + 1}"
        nodes.append(Node("Add", (below, f"down_{level}"), (f"up_{level}",)))
    nodes.append(Node("Relu", ("up_0",), ("output",)))
    x, output = (Value(name, FLOAT, (1, 4)) for name in ("x", "output"))
    graph = Graph("hourglass", (x,), (output,), tuple(nodes), {})
    behind = {wrong}  # what is made of it
    for node in nodes:
        if behind & {*node.inputs}:
            behind.add(node.output)
    asked = []

    def is_wrong(name: str) -> bool:
        asked.append(name)
        return name in behind

    assert _first_alone(graph, [node.output for node in nodes], is_wrong) == wrong
    assert len(asked) <= 5
