"""Weights stored as int8: the graph computes with the rounded weights, in float32."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.graph.passes.int8_weights import store_weights_as_int8
from fewstep.graph.weight_quantization import quantize_weight
from fewstep.plans.errors import UserError
from tests.graph.small_graphs import assert_same
from tests.onnx_text import graph_of_text
from tests.refusals import refuses

PORTS = "(float[batch, 3, 4, 4] x) => (float[batch, 3, 4, 4] y)"
OUTER = {"w_first": (32, 3, 1, 1), "w_last": (3, 32, 1, 1)}


def chain(body: str, **shapes: tuple[int, ...]) -> Graph:
    """x -> a convolution -> the body (from "a" to "b") -> a convolution -> y, with random weights."""
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in {**OUTER, **shapes}.items()}
    return graph_of_text(f"{PORTS} {{ a = Conv(x, w_first) {body} y = Conv(b, w_last) }}", **weights)


FORMS = {
    "Conv": (chain("b = Conv(a, w)", w=(32, 32, 1, 1)), 0),
    "MatMul": (
        chain("t = Transpose<perm=[0, 2, 3, 1]>(a) m = MatMul(t, w) b = Transpose<perm=[0, 3, 1, 2]>(m)", w=(32, 32)),
        1,
    ),
    "a weight of two operations": (chain("n = Conv(a, w) b = Conv(n, w)", w=(32, 32, 1, 1)), 0),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_arithmetic_is_that_of_the_rounded_weight(form: str) -> None:
    graph, axis = FORMS[form]
    rounded = quantize_weight(graph.constants["w"], axis).dequantize()
    assert_same(replace(graph, constants={**graph.constants, "w": rounded}), store_weights_as_int8(graph), rtol=1e-6)


def test_a_shared_weight_is_stored_once() -> None:
    converted = store_weights_as_int8(FORMS["a weight of two operations"][0])
    assert converted.ops().count("DequantizeLinear") == 1


def test_the_float_weight_is_gone() -> None:
    converted = store_weights_as_int8(FORMS["Conv"][0])
    types = {name: (str(array.dtype), array.shape) for name, array in converted.constants.items()}
    assert types == {
        "w/int8_0": ("int8", (32, 32, 1, 1)),
        "w/scales_0": ("float32", (32,)),
        "w_first": ("float32", (32, 3, 1, 1)),
        "w_last": ("float32", (3, 32, 1, 1)),
    }


def test_a_graph_without_such_a_weight_is_refused() -> None:
    with pytest.raises(UserError, match="no weight of graph .* can be stored as int8"):
        store_weights_as_int8(chain("b = Relu(a)"))


def test_a_weight_that_is_not_finite_is_named() -> None:
    graph = FORMS["Conv"][0]
    broken = replace(graph, constants={**graph.constants, "w": graph.constants["w"] * np.float32(np.inf)})
    with refuses(("'w'", "NaN")):
        store_weights_as_int8(broken)
