"""Forms of a CPU, of fewer operations and the same numbers: a product and sum for each channel, and layer norms."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.channel_forms import channel_forms
from fewstep.calibration.lowering.norm_forms import norm_forms
from fewstep.graph.graph import BATCH, Array, Graph, Node, Value
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.session import run
from fewstep.graph.types import infer_types

F32 = np.dtype(np.float32)
CHANNELS, PICTURE = 32, (5, 6)


def affine(scale: str, shift: str, picture: tuple[int, ...] = PICTURE) -> Graph:
    """GroupNorm(x) * scale + shift, then a sigmoid: "row" is an input for each sample, "column" a constant."""
    rng = np.random.default_rng(0)
    ones = [1] * len(picture)
    constants = {f"column_{part}": rng.standard_normal((CHANNELS, *ones)).astype(np.float32) for part in ("a", "b")}
    constants |= {
        "unit": np.ones(8, np.float32),
        "zero": np.zeros(8, np.float32),
        "groups": np.array([0, 8, -1]),
        "picture": np.array([0, CHANNELS, *picture]),
    }
    nodes = (
        Node("Reshape", ("x", "groups"), ("grouped",)),
        Node("InstanceNormalization", ("grouped", "unit", "zero"), ("normal",)),
        Node("Reshape", ("normal", "picture"), ("norm",)),
        Node("Mul", ("norm", f"{scale}_a"), ("scaled",)),
        Node("Add", (f"{shift}_b", "scaled"), ("shifted",)),
        Node("Sigmoid", ("shifted",), ("output",)),
    )
    x, y = (Value(name, F32, (BATCH, CHANNELS, *picture)) for name in ("x", "output"))
    rows = tuple(Value(f"row_{part}", F32, (BATCH, CHANNELS, *ones)) for part in ("a", "b"))
    return Graph("affine", (x, *rows), (y,), nodes, constants)


def feeds(graph: Graph, batch: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    shapes = {value.name: [batch if size == BATCH else int(size) for size in value.shape] for value in graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def joined(graph: Graph) -> Graph:
    return drop_unused(channel_forms(graph, infer_types(graph), {}))


@pytest.mark.parametrize("shift", ["row", "column"])
@pytest.mark.parametrize("scale", ["row", "column"])
def test_scale_and_shift_are_one_operation(scale: str, shift: str) -> None:
    graph = affine(scale, shift)
    found = joined(graph)
    counted = Counter(found.ops())
    assert counted["BatchNormalization"] == 1 and not counted["Mul"] + counted["Add"]
    assert counted["Reshape"] == (2 if scale == shift == "column" else 5)  # the norm's own view is the one of rows
    for batch in (1, 3):
        fed = feeds(graph, batch)
        np.testing.assert_array_equal(run(found, fed)["output"], run(graph, fed)["output"])


def test_two_norms_of_as_many_channels_share_what_they_lack() -> None:
    graph = affine("row", "row")
    nodes = (
        *graph.nodes[:-1],
        Node("Mul", ("shifted", "row_b"), ("twice",)),
        Node("Add", ("twice", "row_a"), ("output",)),
    )
    graph = replace(graph, nodes=nodes)
    counted = Counter(joined(graph).ops())
    assert counted["BatchNormalization"] == counted["ConstantOfShape"] == 2
    fed = feeds(graph)
    np.testing.assert_array_equal(run(joined(graph), fed)["output"], run(graph, fed)["output"])


def test_a_bias_behind_codes_is_one_operation() -> None:
    rng = np.random.default_rng(0)
    constants = {"scale": np.array(0.25, np.float32), "zero": np.array(3, np.uint8)}
    constants["bias"] = rng.standard_normal((1, CHANNELS, 1, 1)).astype(np.float32)
    nodes = (
        Node("QuantizeLinear", ("x", "scale", "zero"), ("code",)),
        Node("DequantizeLinear", ("code", "scale", "zero"), ("h",)),
        Node("Add", ("h", "bias"), ("output",)),
    )
    x, y = (Value(name, F32, (BATCH, CHANNELS, *PICTURE)) for name in ("x", "output"))
    graph = Graph("biased", (x,), (y,), nodes, constants)
    found = joined(graph)
    assert found.ops() == ("QuantizeLinear", "DequantizeLinear", "BatchNormalization")
    np.testing.assert_array_equal(run(found, feeds(graph))["output"], run(graph, feeds(graph))["output"])


def test_sequences_stay() -> None:
    graph = affine("row", "column", (30,))
    assert joined(graph).ops() == graph.ops()


def test_a_product_that_others_read_stays() -> None:
    graph = affine("column", "column")
    nodes = (*graph.nodes[:-1], Node("Add", ("shifted", "scaled"), ("output",)))
    graph = replace(graph, nodes=nodes)
    assert joined(graph).ops() == graph.ops()


def test_numbers_along_another_axis_stay() -> None:
    graph = affine("column", "column", (5, CHANNELS))
    constants = {**graph.constants, "column_a": np.ones(CHANNELS, np.float32)}
    assert joined(replace(graph, constants=constants)).ops() == graph.ops()


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
    formed = drop_unused(norm_forms(graph, infer_types(graph), {}))
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
