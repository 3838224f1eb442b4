"""Patterns of nodes: their matches, the order, and the meaning of their names."""

import pytest

from fewstep.graph.index import index
from fewstep.graph.pattern import match
from tests.onnx_text import graph_of_text

GRAPH = graph_of_text(
    """(float x) => (float twice) {
        gate = Sigmoid(x) silu = Mul(gate, x) twice = Mul(two, silu) rest = Sub(twice, gate)
        own = com.microsoft.Mul(x, x)
    }""",
    two=2.0,
)


@pytest.mark.parametrize(
    ("end", "pattern", "found"),
    [
        ("silu", "Mul(x, Sigmoid(x))", {"x": "x"}),  # either way round, and the same tensor twice
        ("silu", "Mul(y, Sigmoid(z))", {"y": "x", "z": "x"}),
        ("silu", "Mul(x, x)", None),
        ("silu", "Mul(*Sigmoid(x), x)", None),  # the gate has another reader
        ("twice", "Mul(*Mul(x, *Sigmoid(x)), TWO)", None),
        ("twice", "Mul(*Mul(x, Sigmoid(x)), TWO)", {"x": "x", "TWO": "two"}),
        ("twice", "Mul(ONE, Mul(x, TWO))", None),  # x and the gate are no constants
        ("rest", "Sub(*Mul(a), b)", None),  # the graph returns it
        ("rest", "(Add | Sub)(Mul(a), b)", {"a": "two", "b": "gate"}),
        ("rest", "Sub(Sigmoid(x), a)", None),  # no other order
        ("rest", "Sub(a, b, c)", None),
        ("own", "Mul(x, x)", None),  # of another domain
        ("x", "Mul(x, x)", None),  # nothing makes it
    ],
)
def test_a_pattern_stands_for_tensors(end: str, pattern: str, found: dict[str, str] | None) -> None:
    idx = index(GRAPH)
    got = match(idx.producers.get(end), pattern, idx)
    assert (None if got is None else got.tensors) == found


def test_the_nodes_stand_in_the_order_of_the_text() -> None:
    idx = index(GRAPH)
    found = match(idx.producers["rest"], "Sub(Mul(Mul(Sigmoid(x), x), TWO), gate)", idx)
    assert found is not None and [node.output for node in found.nodes] == ["rest", "twice", "silu", "gate"]
