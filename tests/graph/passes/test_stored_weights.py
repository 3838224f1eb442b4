"""Weights stored in 8 or 4 bits: the graph computes with the rounded weights."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.graph.files.io import to_model
from fewstep.graph.graph import Graph
from fewstep.graph.grouped_weights import (
    GroupedWeight,
    choose_scales,
    group_size,
    round_to_nearest,
    spread_groups,
)
from fewstep.graph.passes.contrib_attention import hold_few_scores
from fewstep.graph.passes.stored_weights import (
    can_have_4_bits,
    nearest_int4,
    nearest_int8,
    select_stored_ops,
    store_nearest,
    store_weights,
    store_weights_as_int8,
)
from fewstep.graph.selection import WeightedOp
from fewstep.graph.session import run
from fewstep.graph.weight_quantization import quantize_weight
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.platforms import Bits
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


def in_4_bits(op: WeightedOp, graph: Graph) -> GroupedWeight:
    rows = np.moveaxis(graph.constants[op.weight], op.axis, 0).astype(np.float64)
    group = group_size(rows.shape[1])
    scales, zeros = choose_scales(rows, group)
    spread = (spread_groups(table, group, rows.shape[1]) for table in (scales, zeros))
    return GroupedWeight(round_to_nearest(rows, *spread), scales, zeros, group)


TOKENS = "t = Transpose<perm=[0, 2, 3, 1]>(a) {} b = Transpose<perm=[0, 3, 1, 2]>(m)"
FLAT = "r = Reshape(t, rows) g = Gemm<transB=1>(r, w, bias) m = Reshape(g, back)"


@pytest.mark.parametrize("inputs", [32, 40])  # a group of 32, and one that is padded
@pytest.mark.parametrize("op", ["MatMul", "Gemm"])
def test_products_are_those_of_the_weight_in_4_bits(op: str, inputs: int) -> None:
    body = TOKENS.format("m = MatMul(t, w)" if op == "MatMul" else FLAT)
    graph = chain(body, w=(inputs, 32) if op == "MatMul" else (32, inputs), w_first=(inputs, 3, 1, 1), bias=(32,))
    shapes = {"rows": np.array([-1, inputs]), "back": np.array([-1, 4, 4, 32])}
    graph = replace(graph, constants={**graph.constants, **shapes})
    (stored,) = (candidate for candidate in select_stored_ops(graph) if can_have_4_bits(candidate, graph))
    weight = in_4_bits(stored, graph)
    converted = store_weights(graph, lambda op: weight if op.code == stored.code else None)
    assert converted.ops().count("MatMulNBits") == 1 and "w" not in converted.constants
    assert converted.constants["w/int4" if op == "MatMul" else "transposed(w)/int4"].dtype == np.uint8
    rounded = weight.dequantize() if op == "MatMul" else weight.dequantize().T
    expected = replace(graph, constants={**graph.constants, "w": rounded})
    x = {"x": np.random.default_rng(5).standard_normal((2, 3, 4, 4)).astype(np.float32)}
    exact, output = run(expected, x)["y"], run(converted, x)["y"]
    assert np.square(output - exact).mean() < 1e-4 * np.square(exact).mean()  # activations have 8 bits
    assert np.square(output - run(graph, x)["y"]).mean() > 1e-3 * np.square(exact).mean()


def test_a_product_with_factors_cannot_have_4_bits() -> None:
    scaled = TOKENS.format(FLAT.replace("transB=1", "transB=1, alpha=2.0"))
    graph = chain(scaled, w=(32, 32), bias=(32,))
    assert [can_have_4_bits(op, graph) for op in select_stored_ops(graph)] == [False]
    conv, _ = FORMS["Conv"]
    assert [can_have_4_bits(op, conv) for op in select_stored_ops(conv)] == [False]


@pytest.mark.parametrize("factors", [("", "<alpha=0.5>"), ("<alpha=0.5>", "")])
def test_a_weight_that_one_of_its_products_scales_has_8_bits(factors: tuple[str, str]) -> None:
    first, second = factors
    products = f"r = Reshape(t, rows) f = Gemm{first}(r, w) g = Gemm{second}(f, w) m = Reshape(g, back)"
    graph = chain(TOKENS.format(products), w=(32, 32))
    graph = replace(graph, constants={**graph.constants, "rows": np.array([-1, 32]), "back": np.array([-1, 4, 4, 32])})
    assert_same(store_weights_as_int8(graph), store_nearest(graph, 4), rtol=1e-6)


PROJECTIONS = dict.fromkeys(("w_q", "w_k", "w_v", "w_out"), (32, 32))
ATTENTION = """t = Reshape(a, tokens) q = MatMul(t, w_q) k = MatMul(t, w_k) v = MatMul(t, w_v)
    q4 = Reshape(q, heads) k4 = Reshape(k, heads) v4 = Reshape(v, heads)
    qh = Transpose<perm=[0, 2, 1, 3]>(q4) kh = Transpose<perm=[0, 2, 3, 1]>(k4) vh = Transpose<perm=[0, 2, 1, 3]>(v4)
    s = MatMul(qh, kh) p = Softmax<axis=-1>(s) o = MatMul(p, vh) turned = Transpose<perm=[0, 2, 1, 3]>(o)
    joined = Reshape(turned, tokens) mixed = MatMul(joined, w_out) b = Reshape(mixed, image)"""


def attending() -> Graph:
    """Attention of two heads with four projections, between convolutions."""
    graph = chain(ATTENTION, **PROJECTIONS)
    sizes = {"tokens": [0, 16, 32], "heads": [0, 16, 2, 16], "image": [0, 32, 4, 4]}
    return replace(graph, constants={**graph.constants, **{name: np.array(size) for name, size in sizes.items()}})


@pytest.mark.parametrize("bits", [8, 4])
def test_attention_of_a_stored_graph_is_one_kernel(bits: Bits) -> None:
    graph = attending()
    stored = store_nearest(graph, bits)
    plain = store_weights(graph, lambda op: nearest_int4(op, graph) if bits == 4 else nearest_int8(op, graph))
    counts = [[form.ops().count(op) for op in ("MultiHeadAttention", "Softmax")] for form in (stored, plain)]
    assert counts == [[1, 0], [0, 1]]
    assert stored.ops().count("MatMulNBits") == (4 if bits == 4 else 0)
    x = np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    one, other = (run(form, {"x": x})["y"] for form in (plain, stored))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-6 * np.abs(one).max())


def test_openvino_computes_the_kernel_of_attention() -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    form = hold_few_scores(attending())
    assert form.ops().count("MultiHeadAttention") == 1
    x = 0.01 * np.random.default_rng(1).standard_normal((2, 3, 4, 4)).astype(np.float32)
    core = openvino.Core()
    model = core.read_model(to_model(form).SerializeToString())
    computed = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})({"x": x})["y"]
    exact = run(form, {"x": x})["y"]
    np.testing.assert_allclose(computed, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
