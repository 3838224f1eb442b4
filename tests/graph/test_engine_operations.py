"""The table of operations that TensorRT parses, and the messages for graphs with others."""

import onnx

from fewstep.graph.engine_operations import FIRST, OLDEST, PARSED, find_unparsed, minimum_version
from fewstep.graph.graph import OPSET, Graph, Node
from tests.graph.small_graphs import node, small, value


def graph(*ops: str) -> Graph:
    """A chain of operations of one input."""
    names = ["x", *(f"t{i}" for i in range(1, len(ops))), "y"]
    nodes = [node(op, *pair) for op, pair in zip(ops, zip(names, names[1:]))]
    return small([value("x", "batch", 4)], [value("y", "batch", 4)], nodes)


def test_every_operation_of_the_table_is_one_of_the_opset_and_stands_there_once() -> None:
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history() if schema.since_version <= OPSET}
    assert set(PARSED) <= known
    assert len(PARSED) == sum(len(ops.split()) for ops in FIRST.values())
    assert list(FIRST) == sorted(FIRST)


def test_what_ten_three_parses_is_said_by_nothing() -> None:
    assert list(find_unparsed(graph("Relu", "Gelu", "LayerNormalization"))) == []
    assert minimum_version(graph("Relu", "Gelu")) == (10, 0) <= OLDEST
    assert minimum_version(graph("Relu", "DeformConv")) == (10, 1)


def test_what_it_does_not_is_named_once_with_its_node() -> None:
    found = list(find_unparsed(graph("Relu", "Det", "Det", "HannWindow")))
    assert [str(each) for each in found] == [
        "no TensorRT parses Det, of node 't2'",
        "TensorRT only from 10.4 on parses HannWindow, of node 'y'",
    ]
    assert minimum_version(graph("Det")) is None and minimum_version(graph("HannWindow")) == (10, 4)


def test_an_operation_of_another_domain_is_none_of_these() -> None:
    made = graph("Relu")
    fused = made.with_nodes([Node("Gelu", ("x",), ("y",), {}, "own/Gelu", "com.microsoft")])
    assert [each.node for each in find_unparsed(fused)] == ["own/Gelu"]
