import numpy as np
import pytest

from fewstep.graph.graph import Node
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.passes.identities import drop_expands, drop_identities, merge_layout
from tests.graph.small import assert_same, node, small, value

ONES = np.ones((3, 1), np.float32)


@pytest.mark.parametrize(
    "identity",
    [
        node("Identity", "a", "b"),
        node("Dropout", "a", "b"),
        node("Cast", "a", "b", to=1),
        node("Mul", "a ones", "b"),
        node("Mul", "ones a", "b"),
        node("Div", "a ones", "b"),
        node("Add", "a zeros", "b"),
        node("Sub", "a zeros", "b"),
        node("Transpose", "a", "b", perm=[0, 1, 2]),
        node("Reshape", "a same", "b"),
        node("Expand", "a unit", "b"),
    ],
    ids=lambda identity: f"{identity.op}-{'-'.join(identity.inputs)}",
)
def test_what_returns_its_input_is_dropped(identity: Node) -> None:
    before = small(
        [value("x", "batch", 3, 4)],
        [value("y", "batch", 3, 4)],
        [node("Relu", "x", "a"), identity, node("Neg", "b", "y")],
        ones=ONES,
        zeros=ONES * 0,
        same=np.int64([0, 3, 4]),
        unit=np.int64([1, 1, 1]),
    )
    after = drop_identities(before)
    assert after.ops() == ("Relu", "Neg")
    assert_same(before, after)


@pytest.mark.parametrize(
    "operation",
    [
        node("Div", "ones a", "b"),
        node("Sub", "zeros a", "b"),
        node("Mul", "a wide", "b"),  # ones, but they broadcast
        node("Cast", "a", "b", to=11),
        node("Transpose", "a", "b", perm=[0, 2, 1]),
    ],
    ids=lambda operation: f"{operation.op}-{'-'.join(operation.inputs)}",
)
def test_what_changes_its_input_stays(operation: Node) -> None:
    graph = small(
        [value("x", "batch", 3, 1)],
        [value("y", "batch", "?", "?", dtype="float64" if operation.op == "Cast" else "float32")],
        [node("Relu", "x", "a"), operation, node("Neg", "b", "y")],
        ones=ONES,
        zeros=ONES * 0,
        wide=np.ones((3, 2), np.float32),
    )
    assert drop_identities(graph).ops() == ("Relu", operation.op, "Neg")


def test_an_output_keeps_its_name() -> None:
    before = small(
        [value("x", "batch", 3)], [value("y", "batch", 3)], [node("Relu", "x", "a"), node("Identity", "a", "y")]
    )
    after = drop_identities(before)
    assert [v.name for v in after.outputs] == ["y"]
    assert_same(before, after)


@pytest.mark.parametrize(
    ("first", "second", "merges"),
    [([0, 12], [0, 4, 3], True), ([-1, 12], [-1, 4, 3], True), ([-1, 3], [0, 3, 1], False)],
)
def test_two_reshapes_become_one_where_that_is_the_same(first: list[int], second: list[int], merges: bool) -> None:
    before = small(
        [value("x", "batch", 3, 4)],
        [value("y", "any", second[1], second[2])],
        [node("Reshape", "x first", "a"), node("Reshape", "a second", "y")],
        first=np.int64(first),
        second=np.int64(second),
    )
    after = drop_unused(merge_layout(before))
    assert len(after.nodes) == (1 if merges else 2)
    assert_same(before, after)


def test_two_transposes_become_one() -> None:
    before = small(
        [value("x", "batch", 3, 4, 5)],
        [value("y", "batch", 5, 3, 4)],
        [node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("Transpose", "a", "y", perm=[0, 2, 3, 1])],
    )
    after = drop_unused(merge_layout(before))
    assert [list(n.attributes["perm"]) for n in after.nodes] == [[0, 3, 1, 2]]
    assert_same(before, after)


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("order", ["time ones", "ones time"])
def test_what_broadcasts_anyway_is_not_expanded(op: str, order: str) -> None:
    """So a time does not depend on x, whose batch the ones have."""
    before = small(
        [value("x", "batch", 3), value("time", "batch")],
        [value("y", "batch", 3), value("z", "batch")],
        [
            node("Shape", "x", "size", start=0, end=1),
            node("Expand", "two size", "ones"),
            node(op, order, "z"),
            node("Neg", "x", "y"),
        ],
        two=2.0,
    )
    after = drop_unused(drop_expands(before))
    assert after.ops() == (op, "Neg")
    assert_same(before, after)


def test_an_expand_that_makes_the_shape_stays() -> None:
    before = small(
        [value("x", "batch", 3), value("row", 1, 3)],
        [value("y", "batch", 3)],
        [node("Shape", "x", "size"), node("Expand", "row size", "rows"), node("Add", "rows row", "y")],
    )
    assert drop_expands(before).nodes == before.nodes
