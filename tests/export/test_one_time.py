"""A scalar time made a vector: the ways in which networks use it."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.export.one_time import per_sample
from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.identities import drop_identities
from fewstep.graph.session import run

FLOAT = np.dtype(np.float32)
TIMES = np.array([3.0, 5.0, 8.0], np.float32)


def graph(*nodes: Node) -> Graph:
    """y = x + f(t), where the nodes make f [B] or [1] of the scalar t, as "made"."""
    constants = {
        "half": np.float32(0.5),
        "one": np.float32([1]),
        "axis": np.int64([0]),
        "flat": np.int64([-1]),
        "scalar": np.int64([]),
    }
    last = (
        Node("Unsqueeze", ("made", "end"), ("column",)),
        Node("Add", ("x", "column"), ("y",)),
    )
    return Graph(
        "scalar",
        (Value("x", FLOAT, ("batch", 2)), Value("t", FLOAT, ())),
        (Value("y", FLOAT, ("batch", 2)),),
        (*nodes, *last),
        {**{name: np.asarray(array) for name, array in constants.items()}, "end": np.int64([1])},
    )


SIZE = Node("Shape", ("x",), ("size",), {"start": 0, "end": 1})


@pytest.mark.parametrize(
    "nodes",
    [
        (Node("Unsqueeze", ("t", "axis"), ("made",)),),
        (Node("Reshape", ("t", "flat"), ("made",)),),
        (Node("Mul", ("t", "one"), ("made",)),),
        (Node("Mul", ("t", "half"), ("h",)), Node("Unsqueeze", ("h", "axis"), ("made",))),
        (SIZE, Node("Unsqueeze", ("t", "axis"), ("v",)), Node("Expand", ("v", "size"), ("made",))),
        (
            SIZE,
            Node("Unsqueeze", ("t", "axis"), ("v",)),
            Node("Cast", ("v",), ("c",), {"to": 1}),
            Node("Add", ("c", "half"), ("h",)),
            Node("Expand", ("h", "size"), ("made",)),
        ),
    ],
    ids=["unsqueeze", "reshape", "times-one", "after-arithmetic", "expand", "cast-and-expand"],
)
def test_each_sample_has_its_own_time(nodes: tuple[Node, ...]) -> None:
    before = graph(*nodes)
    after = per_sample(before, "t")
    assert after is not None
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    inputs = (after.inputs[0], Value("t", FLOAT, ("batch",)))
    vector = drop_unused(drop_identities(replace(after, inputs=inputs)))
    assert not {"Expand", "Shape"} & set(vector.ops())
    found = run(vector, {"x": x, "t": TIMES})["y"]
    for row, time in enumerate(TIMES):
        np.testing.assert_array_equal(found[row], run(before, {"x": x, "t": np.array(time)})["y"][row])


@pytest.mark.parametrize(
    "nodes",
    [
        (Node("Mul", ("t", "x"), ("m",)), Node("ReduceMean", ("m", "flat"), ("made",), {"keepdims": 0})),
        (Node("Sin", ("t",), ("s",)), Node("Unsqueeze", ("s", "axis"), ("made",))),
    ],
    ids=["with-x", "unknown-operation"],
)
def test_a_time_that_is_used_as_a_number_stays_one(nodes: tuple[Node, ...]) -> None:
    assert per_sample(graph(*nodes), "t") is None
