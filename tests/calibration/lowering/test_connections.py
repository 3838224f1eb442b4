"""Operations connected in any way are close to float after lowering, for every target."""

import numpy as np
import pytest

from fewstep.calibration.lowering.quantize import lower, refuse_overflow
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph.graph import GROUP, Array, Graph
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from tests.calibration.every_target import selective_target
from tests.calibration.lowering.bodies.small_body import EDGES, FACTORS, feeds, sqnr, table
from tests.exact_int8 import open_exact
from tests.onnx_text import graph_of_text

RNG = np.random.default_rng(0)


def random(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))


def image(inner: str, **weights: Array) -> Graph:
    """x [B, 3, 8, 8] -> first -> `inner`, from "a" to "b", 32 channels each -> last -> y."""
    plane, text = "float[batch, 3, 8, 8]", f"{{ a = Conv(x, first) {inner} y = Conv(b, last) }}"
    outer = {"first": random(32, 3, 1, 1), "last": random(3, 32, 1, 1)}
    return graph_of_text(f"({plane} x) => ({plane} y) {text}", **outer, **weights)


def linear(inner: str, **weights: Array) -> Graph:
    """x [B, 32] -> first -> `inner`, from "a" to "b" -> last -> y."""
    row, text = "float[batch, 32]", f"{{ a = MatMul(x, first) {inner} y = MatMul(b, last) }}"
    return graph_of_text(f"({row} x) => ({row} y) {text}", first=random(32, 32), last=random(32, 32), **weights)


W, SQUARE = random(32, 32, 1, 1), random(32, 32)
GRAPHS = {
    "one convolution reads another": image("c = Conv(a, w) b = Conv(c, v)", w=W, v=random(32, 32, 3, 3)),
    "and something else reads it too": image(
        "c = Conv(a, w) d = Conv(c, v) b = Add(c, d)", w=W, v=random(32, 32, 1, 1)
    ),
    "two read one weight": image("c = Conv(a, w) d = Relu(c) b = Conv(d, w)", w=W),
    "two groups": image("b = Conv<group=2, pads=[1, 1, 1, 1]>(a, w)", w=random(32, 16, 3, 3)),
    "dilated": image("b = Conv<dilations=[2, 2], pads=[2, 2, 2, 2]>(a, w)", w=random(32, 32, 3, 3)),
    "uneven pads": image("b = Conv<pads=[0, 1, 2, 1]>(a, w)", w=random(32, 32, 3, 3)),
    "automatic pads": image('b = Conv<auto_pad="SAME_UPPER">(a, w)', w=random(32, 32, 3, 3)),
    "one weight both ways": linear("c = Gemm<transB=1>(a, w) d = Relu(c) b = Gemm(d, w)", w=SQUARE),
    "a bias that is left out": linear('b = Gemm(a, w, "")', w=SQUARE),
    "a bias of one row": linear("b = Gemm(a, w, bias)", w=SQUARE, bias=random(1, 32)),
}


@selective_target
@pytest.mark.parametrize("edges", [pytest.param((), marks=pytest.mark.slow), EDGES], ids=["pooled", "by group"])
@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_lowered_stays_close_to_float(target: Target, name: str, edges: tuple[float, ...]) -> None:
    """With ranges by group, the group that has the pooled ranges."""
    graph = GRAPHS[name]
    lowered = lower(graph, table(graph, edges), target)
    assert set(lowered.coverage.float_ops) == {"a", "y"}
    assert lowered.groups == edges or target.scheme.placing is not None  # which pools what convolutions read
    widest = {GROUP: np.array([FACTORS.index(1.0)])} if edges else {}
    expected = run(graph, feeds(graph))["y"]
    assert sqnr(expected, open_exact(lowered.graph, optimize=True)(feeds(graph) | widest)["y"]) > 28


@selective_target
@pytest.mark.parametrize("bias", [np.float32(1), np.ones(1, np.float32)], ids=["scalar", "one number"])
def test_a_bias_that_is_not_one_per_channel_leaves_the_product_in_float(target: Target, bias: Array) -> None:
    graph = linear("c = Gemm(a, w, bias) b = MatMul(c, v)", w=SQUARE, v=random(32, 32), bias=bias)
    lowered = lower(graph, table(graph), target)
    assert lowered.coverage.int8_ops == ("b",)
    assert sqnr(run(graph, feeds(graph))["y"], open_exact(lowered.graph)(feeds(graph))["y"]) > 28


def test_an_activation_beyond_float16_is_named() -> None:
    for reached, words in (
        ({"a": 6e4, "c": 1e5}, "'c' reaches 100000, beyond float16; calibrate without target tensorrt"),
        ({"a": 6e4, "x": 1e5}, "'x' reaches 100000, beyond float16; it is the sample, .* give --clip"),
    ):
        with pytest.raises(UserError, match=words):
            refuse_overflow(reached, TENSORRT)


def test_a_number_that_float16_would_make_zero_stays_positive() -> None:
    """Such as the epsilon of a norm: x / (|x| + 0) is not a number at x = 0."""
    graph = image("c = Conv(a, w) b = Add(c, epsilon)", w=W, epsilon=np.float32(1e-12))
    assert lower(graph, table(graph), TENSORRT).graph.constants["float16(epsilon)"] > 0
