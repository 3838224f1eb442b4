"""Batches as users write them."""

import pytest

from fewstep.calibration.engines.batches import batch_of
from fewstep.runtime.errors import UserError
from fewstep.runtime.manifest import Graph, Tensor

GRAPH = Graph(
    "graphs/body.onnx",
    (Tensor("x", "x", ("batch", 4, 64, 64)), Tensor("row", "row", ("batch", 32))),
    (Tensor("output", "output", ("batch", 4, 64, 64)),),
)


@pytest.mark.parametrize(
    "text, batch",
    [
        ("4", 4),
        ("x:1x4x64x64", 1),
        ("x:[2,4,64,64]", 2),
        ("x:8x4x64x64,row:8x32", 8),
        ("x:[8, 4, 64, 64], row:[8, 32]", 8),
        ("row:3x32", 3),
    ],
)
def test_a_number_and_both_forms_of_shapes_are_read(text: str, batch: int) -> None:
    assert batch_of(text, GRAPH, "--max-batch") == batch


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "--max-batch is empty"),
        ("four", "--max-batch 'four' is neither a number nor shapes; write a number, or shapes such as"),
        ("9" * 5000, "neither a number nor shapes"),
        ("x:" + "9" * 5000 + "x4x64x64", "no tensor x is that large"),
        ("x:4x", "neither a number nor shapes"),
        ("x:[4,4,64,64", "neither a number nor shapes"),
        ("y:4x4", "the graph has no input 'y'; choose from x, row"),
        ("x:4x4x32x32", r"x is \['batch', 4, 64, 64\], not \[4, 4, 32, 32\]; only the batch"),
        ("x:4x4x64", r"not \[4, 4, 64\]"),
        ("x:4x4x64x64,row:2x32", "means no single batch"),
    ],
)
def test_what_means_no_batch_is_one_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        batch_of(text, GRAPH, "--max-batch")
