"""Values that do not depend on x leave the body, and both parts compute the same as the graph."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.cuts.prologue import ROW_LIMIT, PreparedDenoiser, cut_prologue
from fewstep.graph.graph import Graph
from fewstep.graph.passes.constants import drop_unused
from fewstep.graph.session import run
from tests.graph.small_graphs import assert_close, assert_same, feeds
from tests.onnx_text import graph_of_text

W = {"w": [[1.0, 2.0, 3.0, 4.0]]}
CONDITIONED = """(float[batch, 4, 5] x, float[batch, 1] time) => (float[batch, 4, 5] y)
{ flat = MatMul(time, w) row = Unsqueeze(flat, last) scaled = Mul(x, row) y = Add(scaled, one) }"""
CONSTANTS: dict[str, Any] = {**W, "last": np.int64([2]), "one": 1.0, "axis": np.int64([1])}


def assert_equivalent(whole: Graph, prepared: PreparedDenoiser) -> None:
    assert prepared.prologue is not None
    for batch in (1, 3):
        given = feeds(whole, batch)
        rows = run(prepared.prologue, given)
        assert_close(run(whole, given), run(prepared.body, {**given, **rows}), rtol=0)


def test_what_does_not_depend_on_x_leaves_the_body() -> None:
    whole = graph_of_text(CONDITIONED, **CONSTANTS)
    prepared = cut_prologue(whole)
    assert prepared.prologue is not None
    assert prepared.prologue.ops() == ("MatMul", "Unsqueeze") and prepared.body.ops() == ("Mul", "Add")
    assert [v.name for v in prepared.body.inputs] == ["x", "row"]
    assert prepared.prologue.outputs == prepared.body.inputs[1:]
    assert prepared.prologue.outputs[0].shape == ("batch", 4, 1)
    assert set(prepared.body.constants) == {"one"} and set(prepared.prologue.constants) == {"w", "last"}
    assert_equivalent(whole, prepared)


CUTS: dict[str, tuple[str, str, str, int]] = {  # graph, inputs of the body, its operations, bytes of a row at most
    "a row that the body makes still serves the prologue": (
        """(float[batch, 4] x, float[batch, 1] time) => (float[batch, 4] y) {
            large = MatMul(time, w) row = ReduceSum<keepdims=1>(large, axis)
            scaled = Mul(x, large) y = Add(scaled, row)
        }""",
        "x time row",
        "MatMul Mul Add",
        15,
    ),
    "a large row stays where its source is no smaller": (
        "(float[batch, 8] x, float[batch, 8] image) => (float[batch, 8] y) { row = Tanh(image) y = Add(x, row) }",
        "x row",
        "Add",
        0,
    ),
    "a large row stays where its source, an embedding's integers, cannot be a row": (
        "(float[batch, 4] x, int64[batch] label) => (float[batch, 4] y)"
        "{ row = Gather<axis=0>(table, label) y = Add(x, row) }",
        "x row",
        "Add",
        15,
    ),
    "what depends on no input, a constant too large to be folded, is made in the body": (
        """(float[batch, 4] x, float[batch, 1] time) => (float[batch, 4] y)
        { plane = Expand(one, four) row = Tanh(time) scaled = Mul(x, plane) y = Add(scaled, row) }""",
        "x row",
        "Expand Mul Add",
        ROW_LIMIT,
    ),
    "a condition that the body reads directly stays an input of it": (
        """(float[batch, 8] x, float[batch, 8] image, float[batch, 1] time) => (float[batch, 8] y)
        { sum = Add(x, image) row = Tanh(time) y = Mul(sum, row) }""",
        "x image row",
        "Add Mul",
        ROW_LIMIT,
    ),
    "a mask is read directly though it could be no row": (
        """(float[batch, 8] x, bool[batch, 8] mask, float[batch, 1] time) => (float[batch, 8] y)
        { row = Tanh(time) y = Where(mask, x, row) }""",
        "x mask row",
        "Where",
        ROW_LIMIT,
    ),
    "the batch of a condition is read in the body, as exporters write `positions.expand(len(label), ...)`": (
        """(float[batch, 4] x, float[batch, 1] time, int64[batch] label) => (float[batch, 4] y) {
            size = Shape(label) given = Concat<axis=0>(size, places)
            is_open = Equal(given, open) sizes = Where(is_open, ones, given)
            plane = Expand(two, sizes) wide = Concat<axis=1>(x, plane) h = MatMul(wide, narrow)
            row = MatMul(time, w) y = Add(h, row)
        }""",
        "x label row",
        "Shape Concat Equal Where Expand Concat MatMul Add",
        ROW_LIMIT,
    ),
    "a mask of a condition is made in the body": (
        """(float[batch, 4] x, float[batch, 1] time, int64[batch, 1] label) => (float[batch, 4] y)
        { is_null = Equal(label, null) h = Where(is_null, zero, x) row = Tanh(time) y = Mul(h, row) }""",
        "x label row",
        "Equal Where Mul",
        ROW_LIMIT,
    ),
}
OF_CUTS: dict[str, Any] = {
    **{"table": np.arange(32, dtype=np.float32).reshape(8, 4), "four": np.int64([1, 4]), "places": np.int64([4])},
    **{"open": np.int64([-1, -1]), "ones": np.int64([1, 1]), "two": np.float32([[2.0]])},
    **{"narrow": np.eye(8, 4, dtype=np.float32), "null": np.int64(1), "zero": 0.0},
}


@pytest.mark.parametrize(("text", "inputs", "ops", "limit"), CUTS.values(), ids=CUTS)
def test_the_body_takes_and_makes_what_it_has_to(text: str, inputs: str, ops: str, limit: int) -> None:
    whole = graph_of_text(text, **CONSTANTS, **OF_CUTS)
    prepared = cut_prologue(whole, row_limit=limit)
    assert [port.name for port in prepared.body.inputs] == inputs.split()
    assert prepared.body.ops() == tuple(ops.split())
    assert prepared.prologue is not None and drop_unused(prepared.prologue).nodes == prepared.prologue.nodes
    assert_equivalent(whole, prepared)


@pytest.mark.parametrize(
    "text",
    [
        """(float[batch, 4] x, float[batch, length, 4] tokens) => (float[batch, length, 4] y)
        { row = Tanh(tokens) columns = Unsqueeze(x, axis) y = Add(columns, row) }""",
        "(float[batch, 8] x, float[batch, 8] image) => (float[batch, 8] y) { y = Add(x, image) }",
        "(float[batch, 8] x) => (float[batch, 8] y) { y = Relu(x) }",
        "(float[batch, 8] x, int64[batch] label) => (float[batch, 8] y) { y = Gather<axis=0>(x, label) }",
    ],
    ids=["row-of-unknown-size", "nothing-else-is-read", "no-conditions", "an-integer-would-be-a-row"],
)
def test_a_graph_stays_whole_where_nothing_can_be_cut(text: str) -> None:
    whole = graph_of_text(text, axis=np.int64([1]))
    assert cut_prologue(whole) == PreparedDenoiser(None, whole)


@pytest.mark.parametrize(
    ("x", "body", "inputs"),
    [
        ("int64", "y = Cast<to=1>(x)", ["x"]),
        ("float", "y = Cast<to=1>(x)", ["x", "time"]),
        ("int64", "ids = Cast<to=1>(x) y = Add(ids, time)", ["x", "time"]),
    ],
)
def test_a_whole_graph_of_tokens_loses_the_time_that_it_does_not_read(x: str, body: str, inputs: list[str]) -> None:
    whole = graph_of_text(f"({x}[batch, 4] x, float[batch, 1] time) => (float[batch, 4] y) {{ {body} }}")
    assert [port.name for port in cut_prologue(whole).body.inputs] == inputs


def test_a_row_above_the_limit_is_made_in_the_body_from_something_smaller() -> None:
    prepared = cut_prologue(graph_of_text(CONDITIONED, **CONSTANTS), row_limit=15)  # bytes; the row has 16, the time 4
    assert prepared.body.ops() == ("MatMul", "Unsqueeze", "Mul", "Add")
    assert [v.name for v in prepared.body.inputs] == ["x", "time"]
    assert prepared.prologue is None


@pytest.mark.parametrize(("width", "ops"), [(40, ("Add",)), (36, ("MatMul", "Add"))])
def test_a_large_row_stays_where_making_it_is_more_work_than_carrying_it(width: int, ops: tuple[str, ...]) -> None:
    """An adapter's features: 110 products for each byte that the smaller picture would save."""
    wide = width + 4
    text = f"""(float[batch, {wide}] x, float[batch, {width}] picture) => (float[batch, {wide}] y)
    {{ row = MatMul(picture, w) y = Add(x, row) }}"""
    whole = graph_of_text(text, w=np.ones((width, wide), np.float32))
    assert cut_prologue(whole, row_limit=15).body.ops() == ops


def test_assert_same_sees_a_difference() -> None:
    """The comparison that these tests use finds a difference."""
    relu, neg = (
        graph_of_text(f"(float[batch, 8] x) => (float[batch, 8] y) {{ y = {op}(x) }}") for op in ("Relu", "Neg")
    )
    with pytest.raises(AssertionError):
        assert_same(relu, neg)
