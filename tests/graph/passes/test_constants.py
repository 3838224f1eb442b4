import numpy as np

from fewstep.graph.passes.constants import drop_unused, fold_constants
from tests.graph.small import assert_same, node, small, value


def test_what_depends_on_constants_only_becomes_a_constant() -> None:
    before = small(
        [value("x", "batch", 4)],
        [value("y", "batch", 4)],
        [
            node("Range", "zero four one", "range"),
            node("Cast", "range", "numbers", to=1),
            node("Mul", "numbers half", "scale"),
            node("Mul", "x scale", "y"),
        ],
        zero=np.int64(0),
        four=np.int64(4),
        one=np.int64(1),
        half=0.5,
    )
    after = fold_constants(before)
    assert after.ops() == ("Mul",)
    np.testing.assert_array_equal(after.constants["scale"], np.float32([0, 0.5, 1, 1.5]))
    assert_same(before, after)


def test_a_constant_is_not_blown_up() -> None:
    before = small(
        [value("x", "batch", 1000)],
        [value("y", "batch", 1000, 1000)],
        [node("Expand", "zero shape", "zeros"), node("Add", "x zeros", "y")],
        zero=0.0,
        shape=np.int64([1, 1000, 1000]),
    )
    assert fold_constants(before).ops() == ("Expand", "Add")


def test_a_node_is_folded_whole_or_not_at_all() -> None:
    """Unique of 800 KB of zeros: the first output has 4 bytes, the third, with 1.6 MB, is too large to be folded."""
    before = small(
        [value("x", "batch", 1, dtype="int64"), value("scale", "batch", 1)],
        [value("y", "batch", 200_000, dtype="int64"), value("z", "batch", 1)],
        [
            node("Unique", "zeros", "values first inverse"),
            node("Add", "x inverse", "y"),
            node("Mul", "scale values", "z"),
        ],
        zeros=np.zeros(200_000, np.float32),
    )
    assert_same(before, drop_unused(fold_constants(before)))


def test_a_random_number_is_no_constant() -> None:
    graph = small([], [value("y", 2)], [node("RandomNormal", "", "r", shape=[2]), node("Add", "r one", "y")], one=1.0)
    assert fold_constants(graph) is graph


def test_what_no_output_needs_is_dropped() -> None:
    before = small(
        [value("x", "batch", 2)],
        [value("y", "batch", 2)],
        [node("Relu", "x", "y"), node("Mul", "x two", "unused")],
        two=2.0,
    )
    after = drop_unused(before)
    assert after.ops() == ("Relu",) and not after.constants
    assert_same(before, after)
