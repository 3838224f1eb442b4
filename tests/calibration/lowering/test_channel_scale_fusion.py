"""Forms for a CPU with fewer operations and the same values: one product and sum per channel, and layer norms."""

from collections import Counter

import numpy as np
import pytest

from fewstep.calibration.lowering.channel_scale_fusion import fuse_channel_scales
from fewstep.calibration.lowering.norm_fusion import fuse_norms
from fewstep.graph.graph import BATCH, Array, Graph
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from tests.onnx_text import graph_of_text

CHANNELS, PICTURE = 32, (5, 6)


def affine(
    scale: str, shift: str, picture: tuple[int, ...] = PICTURE, last: str = "output = Sigmoid(shifted)"
) -> Graph:
    """GroupNorm(x) * scale + shift, then a sigmoid. "row" is an input per sample, "column" a constant."""
    rng, ones = np.random.default_rng(0), [1] * len(picture)
    plane, row = (f"float[batch, {CHANNELS}, {', '.join(map(str, sizes))}]" for sizes in (picture, ones))
    return graph_of_text(
        f"""({plane} x, {row} row_a, {row} row_b) => ({plane} output) {{
            grouped = Reshape(x, groups) normal = InstanceNormalization(grouped, unit, zero)
            norm = Reshape(normal, picture) scaled = Mul(norm, {scale}_a) shifted = Add({shift}_b, scaled) {last}
        }}""",
        **{f"column_{part}": rng.standard_normal((CHANNELS, *ones)) for part in ("a", "b")},
        **{"unit": np.ones(8), "zero": np.zeros(8)},
        groups=np.array([0, 8, -1]),
        picture=np.array([0, CHANNELS, *picture]),
    )


def feeds(graph: Graph, batch: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(1)
    shapes = {value.name: [batch if size == BATCH else int(size) for size in value.shape] for value in graph.inputs}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def fuse_scales(graph: Graph) -> Graph:
    return drop_unused(fuse_channel_scales(graph, infer_types(graph), {}))


@pytest.mark.parametrize("shift", ["row", "column"])
@pytest.mark.parametrize("scale", ["row", "column"])
def test_scale_and_shift_are_one_operation(scale: str, shift: str) -> None:
    graph = affine(scale, shift)
    found = fuse_scales(graph)
    counted = Counter(found.ops())
    assert counted["BatchNormalization"] == 1 and not counted["Mul"] + counted["Add"]
    assert counted["Reshape"] == (2 if scale == shift == "column" else 5)  # the norm's own view is the one of rows
    for batch in (1, 3):
        fed = feeds(graph, batch)
        np.testing.assert_array_equal(run(found, fed)["output"], run(graph, fed)["output"])


def test_two_norms_of_as_many_channels_share_what_they_lack() -> None:
    graph = affine("row", "row", last="twice = Mul(shifted, row_b) output = Add(twice, row_a)")
    counted = Counter(fuse_scales(graph).ops())
    assert counted["BatchNormalization"] == counted["ConstantOfShape"] == 2
    fed = feeds(graph)
    np.testing.assert_array_equal(run(fuse_scales(graph), fed)["output"], run(graph, fed)["output"])


def test_a_bias_after_codes_is_one_operation() -> None:
    plane = f"float[batch, {CHANNELS}, 5, 6]"
    body = "code = QuantizeLinear(x, scale, zero) h = DequantizeLinear(code, scale, zero) output = Add(h, bias)"
    constants = {
        "scale": 0.25,
        "zero": np.uint8(3),
        "bias": np.random.default_rng(0).standard_normal((1, CHANNELS, 1, 1)),
    }
    graph = graph_of_text(f"({plane} x) => ({plane} output) {{ {body} }}", **constants)
    found = fuse_scales(graph)
    assert found.ops() == ("QuantizeLinear", "DequantizeLinear", "BatchNormalization")
    np.testing.assert_array_equal(run(found, feeds(graph))["output"], run(graph, feeds(graph))["output"])


TURNED = affine("column", "column", (5, CHANNELS))
STAY = {
    "sequences": affine("row", "column", (30,)),
    "a product that others read": affine("column", "column", last="output = Add(shifted, scaled)"),
    "numbers along another axis": TURNED.with_nodes(TURNED.nodes, {"column_a": np.ones(CHANNELS, np.float32)}),
}


@pytest.mark.parametrize("graph", STAY.values(), ids=STAY)
def test_other_products_and_sums_stay(graph: Graph) -> None:
    assert fuse_scales(graph).ops() == graph.ops()


def graph_of(skip: str, is_read: bool) -> Graph:
    """LayerNormalization(x + skip) * m; `is_read`: the graph returns the sum and the norm too."""
    rng, row = np.random.default_rng(0), "float[batch, 5, 16]"
    returned = ", ".join(f"{row} {name}" for name in (("scaled", "sum", "norm") if is_read else ("scaled",)))
    text = f"sum = Add(x, {skip}) norm = LayerNormalization<epsilon=1e-5>(sum, a, b) scaled = Mul(norm, m)"
    constants = {name: rng.standard_normal(16) for name in ("a", "b", "m", "constant")}
    return graph_of_text(f"({row} x, {row} y) => ({returned}) {{ {text} }}", **constants)


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
    formed = drop_unused(fuse_norms(graph, infer_types(graph), {}))
    assert [node.op for node in formed.nodes] == ops
    rng = np.random.default_rng(1)
    feeds: dict[str, Array] = {port.name: rng.standard_normal((3, 5, 16)).astype(np.float32) for port in graph.inputs}
    for name, value in run(graph, feeds).items():
        np.testing.assert_allclose(run(formed, feeds)[name], value, atol=2e-6)


def test_multipliers_of_another_axis_are_no_part_of_the_norm() -> None:
    """A convolution has its channels along axis 1. Here there are as many as values in a norm."""
    rng = np.random.default_rng(0)
    shapes = {"a": (16,), "b": (16,), "m": (1, 16, 1)}
    constants = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    row, text = "float[batch, 16, 16]", "{ norm = LayerNormalization(x, a, b) scaled = Mul(norm, m) }"
    graph = graph_of_text(f"({row} x) => ({row} scaled) {text}", **constants)
    formed, feeds = fuse_norms(graph, infer_types(graph), {}), {"x": rng.standard_normal((3, 16, 16), np.float32)}
    np.testing.assert_array_equal(run(formed, feeds)["scaled"], run(graph, feeds)["scaled"])
