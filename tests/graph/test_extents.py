"""Graphs with free sizes: names of dimensions, the range of each, and where the prologue is cut."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fewstep.graph.extents import METADATA, decode, dimension_name, encode, fix_sizes, probe_sizes
from fewstep.graph.files import io
from fewstep.graph.graph import Extent, Graph
from fewstep.graph.passes.shape_reads import reroute_shape_reads
from fewstep.graph.prepare import prepare
from fewstep.graph.session import run
from fewstep.graph.types import infer_types
from fewstep.plans.errors import UserError
from tests.onnx_text import graph_of_text

HEIGHT, WIDTH = Extent(usual=64, low=32, high=128, multiple=8), Extent(usual=48, low=16, high=96, multiple=16)


def halving(**changes: object) -> Graph:
    """Half the height and width, its tokens, and back; a picture besides x is added at the start."""
    plane = "float[batch, 4, height, width]"
    graph = graph_of_text(
        f"""({plane} x, float[batch] time, {plane} picture) => ({plane} output) {{
            shown = Conv(picture, w1)
            sum = Add(x, shown)
            small = Conv<strides=[2, 2], pads=[1, 1, 1, 1]>(sum, w)
            count = Shape<start=0, end=1>(time)
            rows = Shape<start=2, end=3>(small) high = Squeeze(rows)
            columns = Shape<start=3, end=4>(small) wide = Squeeze(columns)
            number = Mul(high, wide)
            tokens = Reshape(number, minus)
            flat = Concat<axis=0>(count, channels, tokens)
            sequence = Reshape(small, flat)
            shape = Shape(small)
            square = Reshape(sequence, shape)
            large = Resize<mode="nearest">(square, , scales)
            output = Identity(large)
        }}""",
        w=np.ones((4, 4, 3, 3)) / 9,
        w1=np.ones((4, 4, 1, 1)) / 4,
        minus=np.int64([-1]),
        channels=np.int64([4]),
        scales=[1.0, 1.0, 2.0, 2.0],
    )
    return replace(graph, extents={"height": HEIGHT, "width": WIDTH}, **changes)


def test_dimensions_are_called_after_the_sizes_they_follow() -> None:
    types = infer_types(reroute_shape_reads(halving()))
    assert types.shape("small") == ("batch", 4, "height/2", "width/2")
    assert types.shape("sequence") == ("batch", 4, "height*width/4")
    assert types.shape("large") == ("batch", 4, "height", "width")
    assert types.sample_bytes("small") == 4 * 4 * 32 * 24  # at the usual sizes


def test_what_depends_on_a_picture_alone_is_a_row_of_its_size() -> None:
    prepared = prepare(halving())
    assert prepared.prologue is not None
    (row,) = (port for port in prepared.body.inputs if port.name != "x")
    assert row.shape == ("batch", 4, "height", "width")
    assert prepared.body.extents == prepared.prologue.extents == halving().extents
    rng = np.random.default_rng(0)
    for height, width in ((64, 48), (32, 96)):
        feeds = {name: rng.standard_normal((2, 4, height, width)).astype(np.float32) for name in ("x", "picture")}
        feeds["time"] = np.ones(2, np.float32)
        rows = run(prepared.prologue, feeds)
        expected, found = run(halving(), feeds)["output"], run(prepared.body, feeds | rows)["output"]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_sizes_are_read_off_x_where_x_has_them() -> None:
    graph = reroute_shape_reads(halving())
    assert [node.inputs[0] for node in graph.nodes if node.op == "Shape"] == ["x", "small", "small", "small"]
    assert "Unsqueeze" in graph.ops() and graph.ops().count("Reshape") == halving().ops().count("Reshape") - 1
    fixed = replace(halving(), extents={})
    assert reroute_shape_reads(fixed) is fixed


def test_a_graph_at_one_choice_of_its_sizes_has_numbers() -> None:
    fixed = fix_sizes(halving(), {"height": 96})
    assert fixed.inputs[0].shape == ("batch", 4, 96, 48) and not fixed.extents
    assert fix_sizes(fixed) is fixed


def test_probes_tell_one_size_from_another() -> None:
    points = probe_sizes({"height": HEIGHT, "width": WIDTH})
    assert points[0] == {"height": 64, "width": 48}
    vectors = {name: [point[name] for point in points] for name in points[0]}
    assert len({a / b for a, b in zip(vectors["height"], vectors["width"], strict=True)}) > 1
    for name, extent in (("height", HEIGHT), ("width", WIDTH)):
        assert len(set(vectors[name])) == 3
        assert all(v % extent.multiple == 0 and extent.low <= v <= extent.high for v in vectors[name])


def test_probes_tell_a_size_halved_upward_from_one_halved_downward() -> None:
    points = [point["length"] for point in probe_sizes({"length": Extent(64, 16, 512)})]
    assert points[0] == 64 and [-(-value // 2) for value in points] != [value // 2 for value in points]


@pytest.mark.parametrize(
    "found, name",
    [
        ((7, 7, 7), 7),
        ((64, 32, 128), "height"),
        ((8, 4, 16), "height/8"),
        ((96, 48, 192), "height*3/2"),
        ((64 * 48, 32 * 96, 128 * 16), "height*width"),
        ((65, 33, 129), "65|33|129"),
        ((64, "?", 128), "?"),
        (("batch", "batch", "batch"), "batch"),
    ],
)
def test_a_dimension_is_named_by_its_numbers(found: tuple, name: int | str) -> None:
    at = [{"height": 64, "width": 48}, {"height": 32, "width": 96}, {"height": 128, "width": 16}]
    assert dimension_name(found, at) == name


def test_a_file_carries_its_sizes(tmp_path: Path) -> None:
    io.save(halving(), tmp_path / "graph.onnx")
    assert io.load(tmp_path / "graph.onnx").extents == {"height": HEIGHT, "width": WIDTH}
    io.save(replace(halving(), extents={}), tmp_path / "fixed.onnx")
    assert not io.parse(tmp_path / "fixed.onnx").metadata_props, "a graph of one shape is written as ever"


@pytest.mark.parametrize(
    "sizes",
    [[], {"a": {}}, {"a": {"usual": 0, "low": 0, "high": 0}}, {"a": {"usual": 9, "low": 1, "high": 8}}, {"a": 1}],
)
def test_damaged_metadata_is_no_range(sizes: object, tmp_path: Path) -> None:
    model = io.to_model(halving())
    model.metadata_props[0].value = json.dumps(sizes)
    (tmp_path / "graph.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"graph.onnx is damaged"):
        io.load(tmp_path / "graph.onnx")


def test_metadata_without_end_is_no_range() -> None:
    with pytest.raises(ValueError, match="is not a list of sizes"):
        decode({METADATA: "[" * 100_000})


def test_too_many_sizes_are_counted() -> None:
    with pytest.raises(ValueError, match="lists 9 sizes, more than 8"):
        decode(encode({f"size{number}": HEIGHT for number in range(9)}))


def test_what_is_written_is_read() -> None:
    extents = {"height": HEIGHT, "width": WIDTH}
    assert decode(encode(extents)) == extents and encode({}) == {} and decode({}) == {}
