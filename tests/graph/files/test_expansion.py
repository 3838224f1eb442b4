"""Models that would take an engine minutes and gigabytes are refused before any function is expanded."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fewstep.graph.files import data_files, expansion
from fewstep.graph.files.expansion import check_size, expand_functions
from fewstep.graph.files.io import from_model, parse
from tests.onnx_text import parse_graph
from tests.refusals import refuses


def function(name: str, *nodes: tuple[str, str, str]) -> onnx.FunctionProto:
    """Return a function of domain "d" from "a" to "b". A node is its operation, input and output."""
    protos = [helper.make_node(op, [x], [y], domain="d" * op.startswith("F")) for op, x, y in nodes]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("d", 1)]
    return helper.make_function("d", name, ["a"], ["b"], protos, opsets)


def model(*functions: onnx.FunctionProto) -> onnx.ModelProto:
    """Return a model that calls F0 twice."""
    proto = parse_graph("g (float[n] x) => (float[n] y) { h = d.F0(x) y = d.F0(h) }")
    proto.functions.extend(functions)
    proto.opset_import.append(helper.make_opsetid("d", 1))
    return proto


def chain(count: int) -> list[onnx.FunctionProto]:
    """Functions that each call the next one; the last is Relu."""
    calls = [f"F{number}" for number in range(1, count)] + ["Relu"]
    return [function(f"F{number}", (call, "a", "b")) for number, call in enumerate(calls)]


def doubling(count: int) -> list[onnx.FunctionProto]:
    """Functions that each call the next one twice; the last calls Relu twice: 2^count nodes."""
    calls = [f"F{number}" for number in range(1, count)] + ["Relu"]
    return [function(f"F{number}", (call, "a", "c"), (call, "c", "b")) for number, call in enumerate(calls)]


def test_functions_are_expanded(tmp_path: Path) -> None:
    proto = model(*doubling(3))
    check_size(proto, "m.onnx")
    assert [node.op_type for node in expand_functions(proto, "m.onnx").graph.node] == ["Relu"] * 16


def test_nodes_are_counted_before_functions_are_expanded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "MOST_NODES", 16)
    check_size(model(*doubling(3)), "m.onnx")
    with refuses("m.onnx has 32 nodes after its functions are expanded, more than 16", "without functions"):
        check_size(model(*doubling(4)), "m.onnx")


def test_a_number_of_nodes_that_no_file_could_hold_is_given_as_a_power() -> None:
    with refuses("m.onnx has about 10^12 nodes after its functions", "without functions"):
        check_size(model(*doubling(40)), "m.onnx")


def test_functions_of_the_default_domain_count_under_both_of_its_names() -> None:
    proto = model(*doubling(40))
    for part in (proto.graph, *proto.functions):
        for node in part.node:
            node.domain = ""
    for one in proto.functions:
        one.domain = "ai.onnx"
    with refuses("m.onnx has about 10^12 nodes after its functions", "without functions"):
        check_size(proto, "m.onnx")


def test_nodes_of_branches_count(monkeypatch: pytest.MonkeyPatch) -> None:
    branch = helper.make_graph([helper.make_node("F1", ["x"], ["b"], domain="d")], "g", [], [])
    proto = model(function("F0", ("Relu", "a", "b")), *doubling(3)[1:])
    proto.graph.node.append(helper.make_node("If", ["c"], ["d"], then_branch=branch, else_branch=branch))
    monkeypatch.setattr(expansion, "MOST_NODES", 11)
    check_size(proto, "m.onnx")  # 2 Relu, If, and two branches of 4
    monkeypatch.setattr(expansion, "MOST_NODES", 10)
    with refuses("m.onnx has 11 nodes", "without functions"):
        check_size(proto, "m.onnx")


@pytest.mark.parametrize("callee", ["F0", "F1"])
def test_a_function_that_calls_itself_is_named(callee: str) -> None:
    proto = model(function("F0", ("F1", "a", "b")), function("F1", (callee, "a", "b")))
    with refuses("m.onnx: the function 'F1' calls itself" if callee == "F1" else "calls itself", "without functions"):
        check_size(proto, "m.onnx")


def test_deep_nesting_is_refused() -> None:
    check_size(model(*chain(100)), "m.onnx")
    assert len(expand_functions(model(*chain(100)), "m.onnx").graph.node) == 2
    with refuses("m.onnx nests 5,000 functions, more than 100", "without functions"):
        check_size(model(*chain(5000)), "m.onnx")


def test_functions_that_onnx_cannot_expand_are_one_line() -> None:
    with refuses("m.onnx has functions that onnx cannot expand", "without functions"):
        expand_functions(model(function("F0", ("F0", "a", "b"))), "m.onnx")


def test_too_many_weights_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expansion, "MOST_TENSORS", 2)
    text = "g (float[n] x) => (float[n] y) { y = Add(x, a) }"
    check_size(parse_graph(text, a=1.0, b=1.0), "m.onnx")
    with refuses("m.onnx stores 3 weights, more than 2", "smaller part"):
        check_size(parse_graph(text, a=1.0, b=1.0, c=1.0), "m.onnx")


def sparse(name: str) -> onnx.SparseTensorProto:
    values, indices = numpy_helper.from_array(np.ones(1, np.float32), name), numpy_helper.from_array(np.array([2]), "i")
    return onnx.SparseTensorProto(values=values, indices=indices, dims=[4])


def test_a_sparse_weight_is_named(tmp_path: Path) -> None:
    proto = parse_graph("g (float[n, 4] x) => (float[n, 4] y) { y = Add(x, weight) }")
    proto.graph.sparse_initializer.append(sparse("weight"))
    onnx.save(proto, tmp_path / "m.onnx")
    with refuses("m.onnx stores the weight 'weight' as a sparse tensor", "dense tensor"):
        parse(tmp_path / "m.onnx")


def test_so_is_a_sparse_constant() -> None:
    proto = parse_graph("g (float[n, 4] x) => (float[n, 4] y) { y = Add(x, weight) }")
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["weight"], sparse_value=sparse("values")))
    with refuses("model.onnx stores a Constant as a sparse tensor", "dense tensor"):
        from_model(proto)


def test_a_weight_file_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finding a file takes longer than mapping a tensor of it."""
    proto = parse_graph("g (float[n, 4] x) => (float[n, 4] y) { y = Sum(x, a, b, c) }")
    for name in "abc":
        weight = proto.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=[4])
        weight.data_location = TensorProto.EXTERNAL
        weight.external_data.add(key="location", value="m.data")
    (tmp_path / "m.data").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    lookups, find = list[str](), data_files.data_file
    monkeypatch.setattr(data_files, "data_file", lambda *given: lookups.append(given[2]) or find(*given))
    graph = from_model(proto, tmp_path / "m.onnx")
    assert [list(graph.constants[name]) for name in "abc"] == [[0, 1, 2, 3]] * 3
    assert lookups == ["m.data"]
