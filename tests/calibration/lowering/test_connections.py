"""Lowering whatever way operations are joined: each close to float, in every target."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.quantize import lower, refuse_overflow
from fewstep.calibration.lowering.scheme import Target
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.graph.graph import BATCH, GROUP, Array, Graph, Node, Value
from fewstep.graph.session import open_session, run
from fewstep.plans.errors import UserError
from tests.calibration.every_target import selective_target
from tests.calibration.lowering.bodies.small_body import EDGES, FACTORS, feeds, sqnr, table

RNG = np.random.default_rng(0)


def random(*shape: int) -> Array:
    return RNG.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(np.prod(shape[1:])))


def conv(x: str, weight: str, y: str, **attributes: object) -> Node:
    return Node("Conv", (x, weight), (y,), attributes, y)


def image(*inner: Node, **weights: Array) -> Graph:
    """x [B, 3, 8, 8] -> first -> `inner`, from "a" to "b", 32 channels each -> last -> y."""
    nodes = (conv("x", "first", "a"), *inner, conv("b", "last", "y"))
    constants = {"first": random(32, 3, 1, 1), "last": random(3, 32, 1, 1), **weights}
    value = Value("x", np.dtype(np.float32), (BATCH, 3, 8, 8))
    return Graph("image", (value,), (replace(value, name="y"),), nodes, constants)


def linear(*inner: Node, **weights: Array) -> Graph:
    """x [B, 32] -> first -> `inner`, from "a" to "b" -> last -> y."""
    nodes = (Node("MatMul", ("x", "first"), ("a",)), *inner, Node("MatMul", ("b", "last"), ("y",)))
    value = Value("x", np.dtype(np.float32), (BATCH, 32))
    constants = {"first": random(32, 32), "last": random(32, 32), **weights}
    return Graph("linear", (value,), (replace(value, name="y"),), nodes, constants)


def gemm(x: str, y: str, *bias: str, transposed: int = 0) -> Node:
    return Node("Gemm", (x, "w", *bias), (y,), {"transB": transposed})


W, SQUARE = random(32, 32, 1, 1), random(32, 32)
GRAPHS = {
    "one convolution reads another": image(conv("a", "w", "c"), conv("c", "v", "b"), w=W, v=random(32, 32, 3, 3)),
    "and something else reads it too": image(
        conv("a", "w", "c"), conv("c", "v", "d"), Node("Add", ("c", "d"), ("b",)), w=W, v=random(32, 32, 1, 1)
    ),
    "two read one weight": image(conv("a", "w", "c"), Node("Relu", ("c",), ("d",)), conv("d", "w", "b"), w=W),
    "two groups": image(conv("a", "w", "b", group=2, pads=[1, 1, 1, 1]), w=random(32, 16, 3, 3)),
    "dilated": image(conv("a", "w", "b", dilations=[2, 2], pads=[2, 2, 2, 2]), w=random(32, 32, 3, 3)),
    "uneven pads": image(conv("a", "w", "b", pads=[0, 1, 2, 1]), w=random(32, 32, 3, 3)),
    "automatic pads": image(conv("a", "w", "b", auto_pad=b"SAME_UPPER"), w=random(32, 32, 3, 3)),
    "one weight both ways": linear(
        gemm("a", "c", transposed=1), Node("Relu", ("c",), ("d",)), gemm("d", "b"), w=SQUARE
    ),
    "a bias that is left out": linear(gemm("a", "b", ""), w=SQUARE),
    "a bias of one row": linear(gemm("a", "b", "bias"), w=SQUARE, bias=random(1, 32)),
}


@selective_target
@pytest.mark.parametrize("edges", [pytest.param((), marks=pytest.mark.slow), EDGES], ids=["pooled", "by group"])
@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_lowered_stays_close_to_float(target: Target, name: str, edges: tuple[float, ...]) -> None:
    """By group in the one whose ranges are the pooled ones."""
    graph = GRAPHS[name]
    lowered = lower(graph, table(graph, edges), target)
    assert set(lowered.coverage.float_ops) == {"a", "y"}
    assert lowered.groups == edges or target.scheme.placing is not None  # which pools what convolutions read
    widest = {GROUP: np.array([FACTORS.index(1.0)])} if edges else {}
    expected = run(graph, feeds(graph))["y"]
    assert sqnr(expected, open_session(lowered.graph, optimize=True)(feeds(graph) | widest)["y"]) > 28


@selective_target
@pytest.mark.parametrize("bias", [np.float32(1), np.ones(1, np.float32)], ids=["scalar", "one number"])
def test_a_bias_that_is_not_one_per_channel_leaves_the_product_in_float(target: Target, bias: Array) -> None:
    graph = linear(gemm("a", "c", "bias"), Node("MatMul", ("c", "v"), ("b",)), w=SQUARE, v=random(32, 32), bias=bias)
    lowered = lower(graph, table(graph), target)
    assert lowered.coverage.int8_ops == ("b",)
    assert sqnr(run(graph, feeds(graph))["y"], run(lowered.graph, feeds(graph))["y"]) > 28


def test_an_activation_beyond_float16_is_named() -> None:
    for reached, words in (
        ({"a": 6e4, "c": 1e5}, "'c' reaches 100000, beyond float16; calibrate without target tensorrt"),
        ({"a": 6e4, "x": 1e5}, "'x' reaches 100000, beyond float16; it is the sample, .* give --clip"),
    ):
        with pytest.raises(UserError, match=words):
            refuse_overflow(reached, TENSORRT)


def test_a_number_that_float16_would_make_zero_stays_positive() -> None:
    """As the epsilon of a norm: x / (|x| + 0) is not a number where x is zero."""
    graph = image(conv("a", "w", "c"), Node("Add", ("c", "epsilon"), ("b",)), w=W, epsilon=np.float32(1e-12))
    assert lower(graph, table(graph), TENSORRT).graph.constants["float16(epsilon)"] > 0
