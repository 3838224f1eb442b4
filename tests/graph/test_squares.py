"""Sums of squares in graphs of a few nodes, and in 16 bits, where they stay float32."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.graph import Array, Graph, Node
from fewstep.graph.half_types import BFLOAT16, FLOAT16
from fewstep.graph.passes.half import float32_tensors, to_half
from fewstep.graph.passes.rounding import round_to, runnable
from fewstep.graph.session import run
from fewstep.graph.squares import between, squared_sums
from tests.graph.small import node, small, value

X = 400 * np.random.default_rng(0).standard_normal((2, 64), np.float32)  # squares reach 1e6
TAIL = [node("Add", "mean epsilon", "safe"), node("Sqrt", "safe", "root"), node("Div", "x root", "y")]


def normed(*nodes: Node) -> Graph:
    """y = x / sqrt(mean of squares + epsilon)."""
    return small(
        [value("x", "batch", 64)],
        [value("y", "batch", 64)],
        [*nodes, *TAIL],
        two=np.float32(2),
        axes=np.array([1]),
        epsilon=1e-12,
        size=np.float32(64),
    )


def expected(x: Array) -> Array:
    wide = x.astype(np.float64)
    return np.asarray(wide / np.sqrt((wide * wide).mean(axis=1, keepdims=True)))


FORMS = {
    "product": [node("Mul", "x x", "square"), node("ReduceMean", "square axes", "mean")],
    "power": [node("Pow", "x two", "square"), node("ReduceMean", "square axes", "mean")],
    "sum": [node("ReduceSumSquare", "x axes", "square"), node("Div", "square size", "mean")],
}


@pytest.mark.parametrize("nodes", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("half", "step"), [(FLOAT16, 2**-10), (BFLOAT16, 2**-7)], ids=["float16", "bfloat16"])
def test_a_norm_holds_what_float16_cannot_square(nodes: list[Node], half: np.dtype[Any], step: float) -> None:
    graph = normed(*nodes)
    assert squared_sums(graph) == {"square", "mean", "safe", "root"}
    assert between(graph, squared_sums(graph)) == {"square", "mean", "safe"}
    written = to_half(graph, half)
    assert not list(float32_tensors(written)) and "epsilon" in written.constants  # 1e-12 is no number of float16
    for made in (round_to(graph, half), runnable(written)):
        np.testing.assert_allclose(run(made, {"x": X})["y"], expected(X), rtol=3 * step)


@pytest.mark.parametrize(
    "reader",
    [node("Add", "square x", "other"), node("ReduceMean", "x axes", "other"), node("Exp", "square", "other")],
    ids=["also-read", "no-square", "never-summed"],
)
def test_a_square_that_is_not_summed_alone_is_in_16_bits(reader: Node) -> None:
    nodes = [node("Mul", "x x", "square"), reader]
    if reader.op == "Add":
        nodes.append(node("ReduceMean", "square axes", "mean"))
    graph = small([value("x", "batch", 64)], [value("other", "batch", 64)], nodes, axes=np.array([1]))
    assert squared_sums(graph) == frozenset()
