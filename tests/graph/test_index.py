from dataclasses import replace

import pytest

from fewstep.graph.index import index, sort_topologically
from fewstep.plans.errors import UserError
from tests.graph.small_graphs import node
from tests.onnx_text import graph_of_text

PORTS = "(float[batch, 2] x, float[batch, 2] time) => (float[batch, 2] y)"
GRAPH = graph_of_text(f"{PORTS} {{ t = Sin(time) a = Relu(x) b = Mul(a, t) y = Add(b, b) unused = Neg(x) }}")


def test_producers_and_consumers() -> None:
    found = index(GRAPH)
    assert found.producers["b"].op == "Mul" and "x" not in found.producers
    assert [n.op for n in found.consumers["x"]] == ["Relu", "Neg"]
    assert [n.op for n in found.consumers["b"]] == ["Add"]  # once, though it is read twice
    assert found.producer("b", "Mul") and found.producer("b", "Add") is None
    assert found.is_inner("a") and not found.is_inner("x") and not found.is_inner("y")


def test_reachability_both_ways() -> None:
    found = index(GRAPH)
    assert found.dependents(["x"]) == {"x", "a", "b", "y", "unused"}
    assert found.dependents(["time"]) == {"time", "t", "b", "y"}
    assert found.dependencies(["y"]) == {"y", "b", "a", "t", "x", "time"}


def test_an_output_left_out_reaches_nothing() -> None:
    graph = graph_of_text(f"{PORTS} {{ a, none = MaxPool(x) t = Clip(time, , one) y = Mul(a, t) }}", one=1.0)
    pool, *others = graph.nodes
    graph = graph.with_nodes([replace(pool, outputs=("a", "")), *others])
    assert index(graph).dependents(["x"]) == {"x", "a", "y"}


def test_topological_order_is_restored_and_otherwise_kept() -> None:
    nodes = GRAPH.nodes
    assert sort_topologically(nodes, ["x", "time"]) == nodes
    names = [n.output for n in sort_topologically(nodes[::-1], ["x", "time"])]
    assert names.index("t") < names.index("b") < names.index("y")


def test_the_order_of_a_long_chain_takes_no_time() -> None:
    nodes = [node("Relu", f"t{i}", f"t{i + 1}") for i in range(20_000)]
    assert sort_topologically(nodes[::-1], ["t0"]) == tuple(nodes)


def test_a_cycle_is_named() -> None:
    with pytest.raises(UserError, match="'a'"):
        sort_topologically([node("Add", "x b", "a"), node("Relu", "a", "b")], ["x"])


def test_a_missing_tensor_is_named() -> None:
    with pytest.raises(UserError, match="'time'"):
        sort_topologically(GRAPH.nodes, ["x"])
