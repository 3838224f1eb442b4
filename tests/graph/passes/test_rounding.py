"""Rounding to float16, shown in float32."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.graph import Array, Graph
from fewstep.graph.passes.rounding import round_to_float16
from fewstep.graph.session import run
from tests.graph.small import node, small, value

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 64), np.float32)


def half(array: Any) -> Array:
    return np.asarray(array, np.float32).astype(np.float16).astype(np.float32)


def linear(size: int, scale: float = 0.1) -> tuple[Graph, Array]:
    """y = relu(x @ w) * 3."""
    weight = (scale * RNG.standard_normal((64, size))).astype(np.float32)
    nodes = [node("MatMul", "x w", "product"), node("Relu", "product", "kept"), node("Mul", "kept three", "y")]
    graph = small([value("x", "batch", 64)], [value("y", "batch", size)], nodes, w=weight, three=np.float32(3))
    return graph, weight


@pytest.mark.parametrize("size", [8, 64], ids=["small-weight", "large-weight"])
def test_every_weight_and_result_is_rounded(size: int) -> None:
    graph, weight = linear(size)
    rounded = round_to_float16(graph)
    product = half(half(X) @ half(weight))
    found = run(rounded, {"x": X}, also=["product", "kept"])
    np.testing.assert_allclose(found["product"], product, rtol=2e-3)  # sums in another order, then rounded
    for array in found.values():
        np.testing.assert_array_equal(array, half(array))
    assert np.any(found["y"] != run(graph, {"x": X})["y"])


def test_a_weight_is_not_in_memory_twice() -> None:
    graph, _ = linear(64)
    rounded = round_to_float16(graph)
    assert (
        sum(array.nbytes for array in rounded.constants.values())
        - sum(array.nbytes for array in graph.constants.values())
        < 100
    )


def test_what_overflows_is_seen_to() -> None:
    """In a graph in float16 the CPU provider would go through 3e5 and come back."""
    nodes = [node("Mul", "x large", "huge"), node("Div", "huge large", "y")]
    graph = small([value("x", "batch", 64)], [value("y", "batch", 64)], nodes, large=np.float32(6e4))
    assert np.isinf(run(round_to_float16(graph), {"x": 5 + abs(X)}, ["huge"])["huge"]).all()


def test_an_epsilon_does_not_become_zero_nor_a_weight_infinite() -> None:
    nodes = [node("Mul", "x zero", "nothing"), node("Add", "nothing epsilon", "sum"), node("Div", "sum epsilon", "y")]
    graph = small([value("x", "batch", 64)], [value("y", "batch", 64)], nodes, zero=np.float32(0), epsilon=1e-12)
    np.testing.assert_array_equal(run(round_to_float16(graph), {"x": X})["y"], 1)
    graph, weight = linear(64)
    spoiled = round_to_float16(graph.with_nodes(graph.nodes, {"w": np.where(weight == weight.max(), 1e6, weight)}))
    assert np.isfinite(run(spoiled, {"x": 1e-3 * X})["y"]).all()


def test_integers_and_what_is_float32_by_definition_stay() -> None:
    nodes = [
        node("Gather", "table label", "row"),
        node("Resize", "x - scales", "wide", mode="nearest"),
        node("Add", "wide row", "y"),
    ]
    image = value("x", "batch", 1, 2, 2)
    table = RNG.standard_normal((3, 1, 4, 4)).astype(np.float32)
    scales = np.array([1, 1, 2, 2], np.float32)
    graph = small(
        [image, value("label", "batch", dtype="int64")],
        [value("y", "batch", 1, 4, 4)],
        nodes,
        table=table,
        scales=scales,
    )
    x, label = RNG.standard_normal((2, 1, 2, 2), np.float32), np.array([0, 2])
    found = run(round_to_float16(graph), {"x": x, "label": label})["y"]
    np.testing.assert_array_equal(found, half(half(x).repeat(2, 2).repeat(2, 3) + half(table)[label]))
