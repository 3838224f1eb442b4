"""Rounding to float16, shown in float32."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.graph import Array, Graph
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.float32 import has_type
from fewstep.graph.passes.half import to_half
from fewstep.graph.passes.rounding import round_to, runnable
from fewstep.graph.session import run
from tests.graph.small import node, small, value

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 64), np.float32)


def half(array: Any, dtype: Any = np.float16) -> Array:
    return np.asarray(array, np.float32).astype(dtype).astype(np.float32)


def linear(size: int, scale: float = 0.1) -> tuple[Graph, Array]:
    """y = relu(x @ w) * 3."""
    weight = (scale * RNG.standard_normal((64, size))).astype(np.float32)
    nodes = [node("MatMul", "x w", "product"), node("Relu", "product", "kept"), node("Mul", "kept three", "y")]
    graph = small([value("x", "batch", 64)], [value("y", "batch", size)], nodes, w=weight, three=np.float32(3))
    return graph, weight


@pytest.mark.parametrize(("dtype", "step"), [(FLOAT16, 2e-3), (BFLOAT16, 1.6e-2)])
@pytest.mark.parametrize("size", [8, 64], ids=["small-weight", "large-weight"])
def test_every_weight_and_result_is_rounded(size: int, dtype: np.dtype[Any], step: float) -> None:
    graph, weight = linear(size)
    rounded = round_to(graph, dtype)
    product = half(half(X, dtype) @ half(weight, dtype), dtype)
    found = run(rounded, {"x": X}, also=["product", "kept"])
    np.testing.assert_allclose(found["product"], product, rtol=step)  # sums in another order, then rounded
    for array in found.values():
        np.testing.assert_array_equal(array, half(array, dtype))
    assert np.any(found["y"] != run(graph, {"x": X})["y"])


def test_a_weight_is_not_in_memory_twice() -> None:
    graph, _ = linear(64)
    rounded = round_to(graph, FLOAT16)
    assert (
        sum(array.nbytes for array in rounded.constants.values())
        - sum(array.nbytes for array in graph.constants.values())
        < 100
    )


def test_what_overflows_is_seen_to() -> None:
    """In a graph in float16 the CPU provider would go through 3e5 and come back."""
    nodes = [node("Mul", "x large", "huge"), node("Div", "huge large", "y")]
    graph = small([value("x", "batch", 64)], [value("y", "batch", 64)], nodes, large=np.float32(6e4))
    assert np.isinf(run(round_to(graph, FLOAT16), {"x": 5 + abs(X)}, ["huge"])["huge"]).all()


def test_a_graph_in_bfloat16_runs_rounded_and_holds_what_float16_cannot() -> None:
    """onnxruntime's CPU has no kernel of bfloat16. The same graph in float32 is rounded, and gives its numbers."""
    nodes = [node("Mul", "x large", "huge"), node("Div", "huge large", "y")]
    graph = small([value("x", "batch", 64)], [value("y", "batch", 64)], nodes, large=np.float32(6e4))
    written = to_half(graph, BFLOAT16)
    assert has_type(written, BFLOAT16)
    found = run(runnable(written), {"x": 5 + abs(X)})["y"]
    np.testing.assert_allclose(found, 5 + abs(X), rtol=1.6e-2)
    np.testing.assert_array_equal(found, run(round_to(graph, BFLOAT16), {"x": 5 + abs(X)})["y"])
    assert runnable(graph) is graph


def test_an_epsilon_does_not_become_zero_nor_a_weight_infinite() -> None:
    nodes = [node("Mul", "x zero", "nothing"), node("Add", "nothing epsilon", "sum"), node("Div", "sum epsilon", "y")]
    graph = small([value("x", "batch", 64)], [value("y", "batch", 64)], nodes, zero=np.float32(0), epsilon=1e-12)
    np.testing.assert_array_equal(run(round_to(graph, FLOAT16), {"x": X})["y"], 1)
    graph, weight = linear(64)
    spoiled = round_to(graph.with_nodes(graph.nodes, {"w": np.where(weight == weight.max(), 1e6, weight)}), FLOAT16)
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
    found = run(round_to(graph, FLOAT16), {"x": x, "label": label})["y"]
    np.testing.assert_array_equal(found, half(half(x).repeat(2, 2).repeat(2, 3) + half(table)[label]))
