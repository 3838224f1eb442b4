"""float16 graphs in float32: the same weights, and no half left anywhere."""

import numpy as np
from onnx import TensorProto, numpy_helper

from fewstep.graph.graph import Graph, Node, Value
from fewstep.graph.half_types import FLOAT16
from fewstep.graph.passes.float32 import has_type, to_float32
from fewstep.graph.session import run

HALF, FLOAT = np.dtype(np.float16), np.dtype(np.float32)
WEIGHT = np.random.default_rng(0).standard_normal((4, 3)).astype(HALF)


def half_graph() -> Graph:
    """y = x @ W + cast(k) + ones(k), all in float16."""
    one = numpy_helper.from_array(np.ones(1, HALF))
    nodes = (
        Node("MatMul", ("x", "w"), ("product",)),
        Node("Cast", ("k",), ("number",), {"to": TensorProto.FLOAT16}),
        Node("Add", ("product", "number"), ("sum",)),
        Node("ConstantOfShape", ("shape",), ("ones",), {"value": one}),
        Node("Add", ("sum", "ones"), ("y",)),
    )
    inputs = (Value("x", HALF, ("batch", 4)), Value("k", np.dtype(np.int64), ()))
    return Graph("half", inputs, (Value("y", HALF, ("batch", 3)),), nodes, {"w": WEIGHT, "shape": np.array([3])})


def test_what_was_float16_is_float32_and_computes_the_same() -> None:
    given, k = np.random.default_rng(1).standard_normal((2, 4)), np.array(2)
    graph = to_float32(half_graph())
    assert has_type(half_graph(), FLOAT16) and not has_type(graph, FLOAT16)
    assert {value.dtype for value in (*graph.inputs, *graph.outputs)} == {FLOAT, np.dtype(np.int64)}
    found = run(graph, {"x": given.astype(FLOAT), "k": k})["y"]
    half = run(half_graph(), {"x": given.astype(HALF), "k": k})["y"]
    assert found.dtype == FLOAT and half.dtype == HALF
    np.testing.assert_allclose(found, given @ WEIGHT.astype(np.float64) + 3, rtol=1e-6)
    np.testing.assert_allclose(found, half, atol=1e-2)


def test_a_graph_in_float32_stays_as_it_is() -> None:
    graph = to_float32(half_graph())
    again = to_float32(graph)
    assert again.inputs == graph.inputs and again.outputs == graph.outputs and again.ops() == graph.ops()
    assert all(again.constants[name] is array for name, array in graph.constants.items())
