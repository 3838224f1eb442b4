"""Types of tensors, and sums of squares that stay float32 in 16 bits."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.graph import Array
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.half import float32_tensors, to_half
from fewstep.graph.passes.rounding import make_runnable, round_to
from fewstep.graph.session import run
from fewstep.graph.squared_sums import inner_tensors, sums_of_squares
from fewstep.graph.types import infer_types
from tests.onnx_text import graph_of_text

VECTOR = "(float[batch, 64] x) => (float[batch, 64] y)"
X = 400 * np.random.default_rng(0).standard_normal((2, 64), np.float32)  # squares reach 1e6
TAIL = "safe = Add(mean, epsilon) root = Sqrt(safe) y = Div(x, root)"
NUMBERS = {"two": 2.0, "axes": np.array([1]), "epsilon": 1e-12, "size": 64.0}


def reference_result(x: Array) -> Array:
    wide = x.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide * wide).mean(axis=1, keepdims=True)))


FORMS = {
    "product": "square = Mul(x, x) mean = ReduceMean(square, axes)",
    "power": "square = Pow(x, two) mean = ReduceMean(square, axes)",
    "sum": "square = ReduceSumSquare(x, axes) mean = Div(square, size)",
}


@pytest.mark.parametrize("squares", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("half", "step"), [(FLOAT16, 2**-10), (BFLOAT16, 2**-7)], ids=["float16", "bfloat16"])
def test_a_norm_holds_what_float16_cannot_square(squares: str, half: np.dtype[Any], step: float) -> None:
    """y = x / sqrt(mean of squares + epsilon)."""
    graph = graph_of_text(f"{VECTOR} {{ {squares} {TAIL} }}", **NUMBERS)
    assert sums_of_squares(graph) == {"square", "mean", "safe", "root"}
    assert inner_tensors(graph, sums_of_squares(graph)) == {"square", "mean", "safe"}
    halved = to_half(graph, half)
    assert not list(float32_tensors(halved)) and "epsilon" in halved.constants  # 1e-12 is no number of float16
    for made in (round_to(graph, half), make_runnable(halved)):
        np.testing.assert_allclose(run(made, {"x": X})["y"], reference_result(X), rtol=3 * step)


ROWS_OF_ZEROS = {
    "one input": "norm = ReduceL2(x, axes) same = Max(norm) safe = Max(same, epsilon) y = Div(x, safe)",
    "floor": "norm = ReduceL2(x, axes) safe = Max(norm, epsilon) y = Div(x, safe)",
    "clip": "norm = ReduceL2(x, axes) safe = Clip(norm, epsilon) y = Div(x, safe)",
    "sum": "square = Mul(x, x) mean = ReduceSum(square, axes) norm = Sqrt(mean) safe = Add(norm, epsilon) "
    "y = Div(x, safe)",
    "inverse": "square = Mul(x, x) mean = ReduceMean(square, axes) safe = Add(mean, epsilon) root = Sqrt(safe) "
    "norm = Reciprocal(root) y = Mul(x, norm)",
}


@pytest.mark.parametrize("body", ROWS_OF_ZEROS.values(), ids=ROWS_OF_ZEROS)
@pytest.mark.parametrize("half", [FLOAT16, BFLOAT16], ids=["float16", "bfloat16"])
def test_a_row_of_zeros_stays_zero_in_16_bits(body: str, half: np.dtype[Any]) -> None:
    """Its norm is 1e-12, which float16 rounds to 0, or 1e6 as an inverse."""
    graph = graph_of_text(f"{VECTOR} {{ {body} }}", **NUMBERS)
    x = X * np.float32([[0], [1]])
    expected = run(graph, {"x": x})["y"]
    for made in (round_to(graph, half), make_runnable(to_half(graph, half))):
        np.testing.assert_allclose(run(made, {"x": x})["y"], expected, rtol=0.02)


@pytest.mark.parametrize(
    "body",
    ["y = Add(square, x) mean = ReduceMean(square, axes)", "y = ReduceMean(x, axes)", "y = Exp(square)"],
    ids=["also-read", "no-square", "never-summed"],
)
def test_a_square_that_is_not_summed_alone_is_in_16_bits(body: str) -> None:
    assert sums_of_squares(graph_of_text(f"{VECTOR} {{ square = Mul(x, x) {body} }}", **NUMBERS)) == frozenset()


def test_the_batch_stays_a_symbol_and_the_rest_are_numbers() -> None:
    text = """(float[batch, 3, 8, 8] x) => (float[batch, 4, 16] y)
    { a = Conv<strides=[2, 2]>(x, w) y = Reshape(a, flat) }"""
    types = infer_types(graph_of_text(text, w=np.zeros((4, 3, 2, 2)), flat=np.int64([0, 4, 16])))
    assert types.shape("a") == ("batch", 4, 4, 4) and types.rank("a") == 4
    assert types.static("a") is None and types.static("w") == (4, 3, 2, 2)
    assert types.values["a"].dtype == np.float32
    assert types.sample_bytes("a") == 4 * 4 * 4 * 4
    assert types.shape("nothing") is None and types.sample_bytes("nothing") is None


def test_the_batch_survives_a_resize() -> None:
    text = """(float[batch, 3, 4, 4] x) => (float[batch, 3, 8, 8] y)
    { a = Resize<mode="nearest">(x, , scales) y = Relu(a) }"""
    assert infer_types(graph_of_text(text, scales=[1.0, 1.0, 2.0, 2.0])).shape("a") == ("batch", 3, 8, 8)


def test_large_weights_count_by_their_shape() -> None:
    graph = graph_of_text(f"{VECTOR} {{ y = MatMul(x, w) }}", w=np.zeros((64, 64)))
    assert infer_types(graph).shape("y") == ("batch", 64)


def test_the_batch_is_found_after_a_layout_with_another_axis_first() -> None:
    """As in attention over [tokens, batch * heads, width]; other symbols stay."""
    graph = graph_of_text(
        """(float[batch, 6, 4] x, float[n, 4] other) => (float[batch, 24] y, float[m, 2] z) {
            first = Transpose<perm=[1, 0, 2]>(x) inner = Reshape(first, heads) again = Reshape(inner, back)
            last = Transpose<perm=[1, 0, 2]>(again) y = Reshape(last, flat) z = Reshape(other, halves)
        }""",
        heads=np.int64([6, -1, 2]),
        back=np.int64([6, -1, 4]),
        flat=np.int64([-1, 24]),
        halves=np.int64([-1, 2]),
    )
    types = infer_types(graph)
    assert types.shape("last") == ("batch", 6, 4) and types.shape("y") == ("batch", 24)
    assert isinstance(found := (types.shape("z") or ())[0], str) and found != "batch"
