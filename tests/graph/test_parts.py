from dataclasses import replace

import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.graph.parts import parts
from fewstep.graph.session import run
from fewstep.graph.weights import weight_bytes
from fewstep.plans.errors import UserError
from tests.graph.small import assert_close, feeds, node, small, value

LAYER = 4 * 16 * 16  # bytes of one weight


def skipping() -> Graph:
    """Four layers, of which the last reads what the first made, and a weight that two of them share."""
    rng = np.random.default_rng(0)
    nodes = [
        node("MatMul", "x w0", "a"),
        node("MatMul", "a w1", "b"),
        node("MatMul", "b w1", "c"),
        node("MatMul", "c w2", "d"),
        node("Add", "d a", "y"),
    ]
    weights = {f"w{i}": rng.standard_normal((16, 16)) / 4 for i in range(3)}
    return small([value("x", "batch", 16)], [value("y", "batch", 16), value("b", "batch", 16)], nodes, **weights)


@pytest.mark.parametrize(("limit", "count"), [(0, 3), (LAYER, 3), (2 * LAYER, 2), (3 * LAYER, 1)])
def test_parts_in_turn_compute_the_graph(limit: int, count: int) -> None:
    graph = skipping()
    pieces = list(parts(graph, limit))
    assert len(pieces) == count
    assert [node for piece in pieces for node in piece.nodes] == list(graph.nodes)
    assert all(weight_bytes(piece) <= max(limit, LAYER) for piece in pieces)
    held = given = feeds(graph, 3)
    for piece in pieces:
        assert {each.name for each in piece.inputs} <= held.keys()
        held = held | run(piece, held)
    assert_close(run(graph, given), {name: held[name] for name in ("y", "b")}, rtol=0.0)


def test_a_part_returns_what_is_read_later_and_nothing_else() -> None:
    first, second, third = parts(skipping(), LAYER)
    assert [[each.name for each in piece.outputs] for piece in (first, second, third)] == [["a"], ["b", "c"], ["y"]]


def test_a_border_of_unknown_type_is_named() -> None:
    graph = small(
        [value("x", "batch", 2)],
        [value("y", "batch", 2)],
        [node("NoSuchOperation", "x w", "a"), node("Mul", "a v", "y")],
        w=[1.0, 2.0],
        v=[3.0, 4.0],
    )
    with pytest.raises(UserError, match="'a' cannot be inferred"):
        list(parts(graph, 0))


def test_a_port_that_nobody_needs_to_feed_stays_one_in_its_part() -> None:
    graph = replace(skipping(), optional=(value("w1", 16, 16),))
    pieces = list(parts(graph, 0))
    assert [[each.name for each in piece.optional] for piece in pieces] == [[], ["w1"], []]
    assert all("w1" not in [each.name for each in piece.inputs] for piece in pieces)
