"""Layer norms in the forms of a CPU: the same numbers from fewer operations."""

import numpy as np
import pytest

from fewstep.calibration.lowering.norm_forms import norm_forms
from fewstep.graph.graph import BATCH, Array, Graph, Node, Value
from fewstep.graph.session import run
from fewstep.graph.types import infer_types

F32 = np.dtype(np.float32)


def graph_of(skip: str, is_read: bool) -> Graph:
    """LayerNormalization(x + skip) * m; `is_read`: the graph returns the sum and the norm too."""
    rng = np.random.default_rng(0)
    constants = {name: rng.standard_normal(16).astype(np.float32) for name in ("a", "b", "m", "constant")}
    nodes = (
        Node("Add", ("x", skip), ("sum",)),
        Node("LayerNormalization", ("sum", "a", "b"), ("norm",), {"epsilon": 1e-5}),
        Node("Mul", ("norm", "m"), ("scaled",)),
    )
    inputs = [Value(name, F32, (BATCH, 5, 16)) for name in ("x", "y")]
    outputs = [Value(name, F32, (BATCH, 5, 16)) for name in (("scaled", "sum", "norm") if is_read else ("scaled",))]
    return Graph("norm", tuple(inputs), tuple(outputs), nodes, constants)


@pytest.mark.parametrize(
    ("skip", "is_read", "ops"),
    [
        ("y", False, ["Sum", "LayerNormalization"]),
        ("constant", False, ["Add", "LayerNormalization"]),
        ("y", True, ["Add", "LayerNormalization", "Mul"]),
    ],
)
def test_a_sum_is_no_part_of_the_norm_and_multipliers_are(skip: str, is_read: bool, ops: list[str]) -> None:
    graph = graph_of(skip, is_read)
    formed = norm_forms(graph, infer_types(graph), {})
    assert [node.op for node in formed.nodes] == ops
    rng = np.random.default_rng(1)
    feeds: dict[str, Array] = {each.name: rng.standard_normal((3, 5, 16)).astype(np.float32) for each in graph.inputs}
    for name, value in run(graph, feeds).items():
        np.testing.assert_allclose(run(formed, feeds)[name], value, atol=2e-6)


def test_multipliers_of_another_axis_are_no_part_of_the_norm() -> None:
    """A convolution reads channels at axis 1, here as many as there are numbers in a norm."""
    rng = np.random.default_rng(0)
    shapes = {"a": (16,), "b": (16,), "m": (1, 16, 1)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    norm, product = Node("LayerNormalization", ("x", "a", "b"), ("norm",)), Node("Mul", ("norm", "m"), ("scaled",))
    x, scaled = (Value(name, F32, (BATCH, 16, 16)) for name in ("x", "scaled"))
    graph = Graph("norm", (x,), (scaled,), (norm, product), constants)
    formed, feeds = norm_forms(graph, infer_types(graph), {}), {"x": rng.standard_normal((3, 16, 16), np.float32)}
    np.testing.assert_array_equal(run(formed, feeds)["scaled"], run(graph, feeds)["scaled"])
