import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.shapes import fold_shapes
from fewstep.graph.types import infer_types
from tests.graph.small import assert_same, node, small, value


def folded(graph: Graph) -> Graph:
    for _ in range(3):
        graph = drop_unused(fold_constants(fold_shapes(graph)))
    return graph


def group_norm() -> Graph:
    """As exporters write it: back to the shape of x, whatever it is."""
    return small(
        [value("x", "batch", 6, 4, 5)],
        [value("y", "batch", 6, 4, 5)],
        [
            node("Reshape", "x groups", "grouped"),
            node("InstanceNormalization", "grouped one zero", "normal"),
            node("Shape", "x", "shape"),
            node("Reshape", "normal shape", "y"),
        ],
        groups=np.int64([0, 2, -1]),
        one=[1.0, 1.0],
        zero=[0.0, 0.0],
    )


def flattened() -> Graph:
    """Tokens of an image, with the batch read from its shape."""
    return small(
        [value("x", "batch", 6, 4, 5)],
        [value("y", "batch", 6, 20)],
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape first", "size", axis=0),
            node("Concat", "size rest", "target", axis=0),
            node("Reshape", "x target", "y"),
        ],
        first=np.int64([0]),
        rest=np.int64([6, 20]),
    )


def folded_heads() -> Graph:
    """Heads merged into the batch: the one axis that is neither the batch nor a number."""
    return small(
        [value("x", "batch", 3, 4, 5)],
        [value("y", "any", 4, 5)],
        [
            node("Shape", "x", "shape"),
            node("Slice", "shape start end", "tail"),
            node("Concat", "rest tail", "target", axis=0),
            node("Reshape", "x target", "y"),
        ],
        start=np.int64([2]),
        end=np.int64([4]),
        rest=np.int64([-1]),
    )


def scale_by_channels() -> Graph:
    """A number computed from a fixed dimension."""
    return small(
        [value("x", "batch", 6)],
        [value("y", "batch", 6)],
        [
            node("Shape", "x", "shape", start=1),
            node("Gather", "shape zero", "channels", axis=0),
            node("Cast", "channels", "number", to=1),
            node("Sqrt", "number", "root"),
            node("Div", "x root", "y"),
        ],
        zero=np.int64(0),
    )


def expanded() -> Graph:
    return small(
        [value("x", "batch", 1, 5)],
        [value("y", "batch", 3, 5)],
        [
            node("Shape", "x", "shape", end=1),
            node("Concat", "shape rest", "target", axis=0),
            node("Expand", "x target", "y"),
        ],
        rest=np.int64([3, 5]),
    )


def registers() -> Graph:
    """A constant for each sample, beside its tokens."""
    return small(
        [value("x", "batch", 2, 3)],
        [value("y", "batch", 5, 3)],
        [
            node("Shape", "x", "shape", end=1),
            node("Concat", "shape one one", "repeats", axis=0),
            node("Tile", "tokens repeats", "tiled"),
            node("Concat", "tiled x", "y", axis=1),
        ],
        one=np.int64([1]),
        tokens=np.arange(9, dtype=np.float32).reshape(1, 3, 3),
    )


def heads(batch: int = 0) -> Graph:
    """Tokens into heads, their number left open: what inference cannot divide by a batch it does not know."""
    return small(
        [value("x", "batch", 20, 6)],
        [value("y", "batch", "n", 2, 3)],
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape first", "size", axis=0),
            node("Unsqueeze", "size axis", "sizes"),
            node("Concat", "sizes open two three", "target", axis=0),
            node("Reshape", "x target", "y"),
        ],
        first=np.int64(batch),
        axis=np.int64([0]),
        open=np.int64([-1]),
        two=np.int64([2]),
        three=np.int64([3]),
    )


@pytest.mark.parametrize(
    ("before", "ops", "target"),
    [
        (heads(), ("Reshape",), [0, 20, 2, 3]),
        (group_norm(), ("Reshape", "InstanceNormalization", "Reshape"), [0, 6, 4, 5]),
        (flattened(), ("Reshape",), [0, 6, 20]),
        (folded_heads(), ("Reshape",), [-1, 4, 5]),
        (scale_by_channels(), ("Div",), None),
        (expanded(), ("Expand",), [1, 3, 1]),
    ],
)
def test_no_shape_arithmetic_is_left(before: Graph, ops: tuple[str, ...], target: list[int] | None) -> None:
    after = folded(before)
    assert after.ops() == ops
    if target is not None:
        assert after.constants[after.nodes[-1].inputs[1]].tolist() == target
    assert_same(before, after)


def test_a_constant_that_is_repeated_for_each_sample_keeps_the_batch() -> None:
    before = registers()
    after = folded(before)
    assert after.ops() == ("Shape", "Concat", "Expand", "Concat")
    assert infer_types(after).shape(after.nodes[2].output) == ("batch", 3, 3)
    assert_same(before, after)


def test_two_sizes_that_nobody_knows_are_not_taken_for_one() -> None:
    before = small(
        [value("x", "batch", "?"), value("like", "batch", "?")],
        [value("y", "batch", "?")],
        [node("Shape", "like", "target"), node("Expand", "x target", "y")],
    )
    assert folded(before).ops() == before.ops()


def test_a_second_dynamic_dimension_keeps_its_arithmetic() -> None:
    before = small(
        [value("x", "batch", "width", 4)],
        [value("y", "batch", 4, "width")],
        [
            node("Shape", "x", "shape"),
            node("Gather", "shape order", "target", axis=0),
            node("Reshape", "x target", "y"),
        ],
        order=np.int64([0, 2, 1]),
    )
    after = folded(before)
    assert after.ops() == before.ops()
