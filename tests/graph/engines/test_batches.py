"""Batches as users write them."""

import pytest

from fewstep.graph.engines.batches import parse_sizes, profile_of
from fewstep.plans.errors import UserError
from fewstep.runtime.bundle.manifest import GraphEntry, Size, TensorEntry

GRAPH = GraphEntry(
    "graphs/body.onnx",
    (TensorEntry("x", "x", ("batch", 4, 64, 64)), TensorEntry("row", "row", ("batch", 32))),
    (TensorEntry("output", "output", ("batch", 4, 64, 64)),),
)
FREE = GraphEntry(
    "graphs/body.onnx",
    (
        TensorEntry("x", "x", ("batch", 4, "height", "width")),
        TensorEntry("row", "row", ("batch", 8, "height/2", "width/2")),
    ),
    (TensorEntry("output", "output", ("batch", 4, "height", "width")),),
)
SIZES = (Size("height", 1, low=32, high=128, multiple=8), Size("width", 2, low=32, high=256, multiple=8))


@pytest.mark.parametrize(
    "graph, text, sizes",
    [
        (GRAPH, "4", {"batch": 4}),
        (GRAPH, "x:1x4x64x64", {"batch": 1}),
        (GRAPH, "x:[2,4,64,64]", {"batch": 2}),
        (GRAPH, "x:8x4x64x64,row:8x32", {"batch": 8}),
        (GRAPH, "x:[8, 4, 64, 64], row:[8, 32]", {"batch": 8}),
        (GRAPH, "row:3x32", {"batch": 3}),
        (FREE, "4", {"batch": 4}),
        (FREE, "x:4x4x96x64", {"batch": 4, "height": 96, "width": 64}),
        (FREE, "row:[2,8,48,32]", {"batch": 2, "height": 96, "width": 64}),
    ],
)
def test_a_number_and_both_forms_of_shapes_are_read(graph: GraphEntry, text: str, sizes: dict[str, int]) -> None:
    assert parse_sizes(text, graph, "--max-batch") == sizes


@pytest.mark.parametrize(
    "graph, text, message",
    [
        (GRAPH, "", "--max-batch is empty"),
        (GRAPH, "four", "--max-batch 'four' is neither a number nor shapes; write a number, or shapes such as"),
        (GRAPH, "9" * 5000, "neither a number nor shapes"),
        (GRAPH, "x:" + "9" * 5000 + "x4x64x64", "a size of tensor x is too large"),
        (GRAPH, "x:4x", "neither a number nor shapes"),
        (GRAPH, "x:[4,4,64,64", "neither a number nor shapes"),
        (GRAPH, "y:4x4", "the graph has no input 'y'; choose from x, row"),
        (GRAPH, "x:4x4x32x32", r"x is \['batch', 4, 64, 64\], not \[4, 4, 32, 32\]; only the batch"),
        (GRAPH, "x:4x4x64", r"not \[4, 4, 64\]"),
        (GRAPH, "x:4x4x64x64,row:2x32", "gives no batch, or several"),
        (FREE, "x:4x3x96x64", "not .4, 3, 96, 64.; batch, height, width can be chosen"),
        (FREE, "x:4x4x96x64,row:4x8x32x32", "gives no height, or several"),
    ],
)
def test_what_means_no_batch_is_one_line(graph: GraphEntry, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_sizes(text, graph, "--max-batch")


def test_a_profile_is_the_whole_range_where_nothing_is_said() -> None:
    assert profile_of({"batch": 1}, None, {"batch": 16}, SIZES, (4, 64, 64)) == {
        "batch": (1, 4, 16),
        "height": (32, 64, 128),
        "width": (32, 64, 256),
    }
    for least, preferred, greatest in ((1, 2, 2), (8, 8, 16)):  # as near to 4 as the others allow
        made = profile_of({"batch": least}, None, {"batch": greatest}, (), (4, 64, 64))
        assert made == {"batch": (least, preferred, greatest)}
    narrow = profile_of({"batch": 2}, None, {"batch": 2, "height": 48, "width": 32}, SIZES, (4, 64, 64))
    assert narrow == {"batch": (2, 2, 2), "height": (32, 48, 48), "width": (32, 32, 32)}


@pytest.mark.parametrize(
    "least, greatest, message",
    [
        (
            {"batch": 1},
            {"batch": 4, "height": 256},
            "an engine cannot have a height of 256; choose multiples of 8 from 32 to 128",
        ),
        ({"batch": 1, "height": 36}, {"batch": 4}, "an engine cannot have a height of 36"),
        ({"batch": 1, "height": 96}, {"batch": 4, "height": 64}, "heights 96, .* are not 1 <= min <= opt <= max"),
        ({"batch": 8}, {"batch": 4}, "batches 8, .* are not 1 <= min <= opt <= max"),
    ],
)
def test_a_profile_that_cannot_be_is_one_line(least: dict, greatest: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        profile_of(least, None, greatest, SIZES, (4, 64, 64))
