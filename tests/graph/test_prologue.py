import numpy as np

from fewstep.graph.graph import Graph
from fewstep.graph.prologue import PreparedDenoiser, cut_prologue
from fewstep.graph.session import run
from tests.graph.small import assert_close, assert_same, feeds, node, small, value


def assert_equivalent(whole: Graph, prepared: PreparedDenoiser) -> None:
    assert prepared.prologue is not None
    for batch in (1, 3):
        given = feeds(whole, batch)
        rows = run(prepared.prologue, given)
        assert_close(run(whole, given), run(prepared.body, {**given, **rows}), rtol=0)


def conditioned() -> Graph:
    """y = x * W(time) + 1, with a row of 4 floats made from a time of one."""
    return small(
        [value("x", "batch", 4, 5), value("time", "batch", 1)],
        [value("y", "batch", 4, 5)],
        [
            node("MatMul", "time w", "flat"),
            node("Unsqueeze", "flat last", "row"),
            node("Mul", "x row", "scaled"),
            node("Add", "scaled one", "y"),
        ],
        w=[[1.0, 2.0, 3.0, 4.0]],
        last=np.int64([2]),
        one=1.0,
    )


def test_what_does_not_depend_on_x_leaves_the_body() -> None:
    prepared = cut_prologue(conditioned())
    assert prepared.prologue is not None
    assert prepared.prologue.ops() == ("MatMul", "Unsqueeze") and prepared.body.ops() == ("Mul", "Add")
    assert [v.name for v in prepared.body.inputs] == ["x", "row"]
    assert prepared.prologue.outputs == prepared.body.inputs[1:]
    assert prepared.prologue.outputs[0].shape == ("batch", 4, 1)
    assert set(prepared.body.constants) == {"one"} and set(prepared.prologue.constants) == {"w", "last"}
    assert_equivalent(conditioned(), prepared)


def test_a_whole_graph_of_tokens_loses_the_time_that_it_does_not_read() -> None:
    for dtype, names in (("int64", ["x"]), ("float32", ["x", "time"])):
        ports = [value("x", "batch", 4, dtype=dtype), value("time", "batch")]
        whole = small(ports, [value("y", "batch", 4)], [node("Cast", "x", "y", to=1)])
        assert [each.name for each in cut_prologue(whole).body.inputs] == names
    ports = [value("x", "batch", 4, dtype="int64"), value("time", "batch", 1)]
    timed = [node("Cast", "x", "ids", to=1), node("Add", "ids time", "y")]
    kept = cut_prologue(small(ports, [value("y", "batch", 4)], timed)).body
    assert [each.name for each in kept.inputs] == ["x", "time"]


def test_a_row_above_the_limit_is_made_in_the_body_from_something_smaller() -> None:
    prepared = cut_prologue(conditioned(), row_limit=15)  # bytes; the row has 16, the time 4
    assert prepared.body.ops() == ("MatMul", "Unsqueeze", "Mul", "Add")
    assert [v.name for v in prepared.body.inputs] == ["x", "time"]
    assert prepared.prologue is None


def test_a_row_that_the_body_makes_still_serves_the_prologue() -> None:
    whole = small(
        [value("x", "batch", 4), value("time", "batch", 1)],
        [value("y", "batch", 4)],
        [
            node("MatMul", "time w", "large"),
            node("ReduceSum", "large axes", "row", keepdims=1),
            node("Mul", "x large", "scaled"),
            node("Add", "scaled row", "y"),
        ],
        w=[[1.0, 2.0, 3.0, 4.0]],
        axes=np.int64([1]),
    )
    prepared = cut_prologue(whole, row_limit=15)
    assert [v.name for v in prepared.body.inputs] == ["x", "time", "row"]
    assert_equivalent(whole, prepared)


def test_a_large_row_stays_where_its_source_is_no_smaller() -> None:
    whole = small(
        [value("x", "batch", 8), value("image", "batch", 8)],
        [value("y", "batch", 8)],
        [node("Tanh", "image", "row"), node("Add", "x row", "y")],
    )
    prepared = cut_prologue(whole, row_limit=0)
    assert prepared.body.ops() == ("Add",)
    assert_equivalent(whole, prepared)


def test_a_large_row_stays_where_making_it_is_more_work_than_carrying_it() -> None:
    """An adapter's features: 110 products for each byte that the smaller picture would save."""

    def whole(width: int) -> Graph:
        return small(
            [value("x", "batch", width + 4), value("picture", "batch", width)],
            [value("y", "batch", width + 4)],
            [node("MatMul", "picture w", "row"), node("Add", "x row", "y")],
            w=np.ones((width, width + 4), np.float32),
        )

    assert cut_prologue(whole(40), row_limit=15).body.ops() == ("Add",)
    assert cut_prologue(whole(36), row_limit=15).body.ops() == ("MatMul", "Add")


def test_a_large_row_stays_where_its_source_cannot_be_a_row() -> None:
    """An embedding: behind it there are integers only."""
    whole = small(
        [value("x", "batch", 4), value("label", "batch", dtype="int64")],
        [value("y", "batch", 4)],
        [node("Gather", "table label", "row", axis=0), node("Add", "x row", "y")],
        table=np.float32([[1, 2, 3, 4]]),
    )
    assert [v.name for v in cut_prologue(whole, row_limit=15).body.inputs] == ["x", "row"]


def test_what_depends_on_no_input_is_made_in_the_body() -> None:
    """A constant too large to be folded has no batch, so that it could not be a row."""
    whole = small(
        [value("x", "batch", 4), value("time", "batch", 1)],
        [value("y", "batch", 4)],
        [
            node("Expand", "two four", "plane"),
            node("Tanh", "time", "row"),
            node("Mul", "x plane", "scaled"),
            node("Add", "scaled row", "y"),
        ],
        two=2.0,
        four=np.int64([1, 4]),
    )
    prepared = cut_prologue(whole)
    assert [v.name for v in prepared.body.inputs] == ["x", "row"]
    assert_equivalent(whole, prepared)


def test_a_row_whose_size_is_unknown_leaves_the_graph_whole() -> None:
    whole = small(
        [value("x", "batch", 4), value("tokens", "batch", "length", 4)],
        [value("y", "batch", "length", 4)],
        [node("Tanh", "tokens", "row"), node("Unsqueeze", "x axis", "columns"), node("Add", "columns row", "y")],
        axis=np.int64([1]),
    )
    assert cut_prologue(whole) == PreparedDenoiser(None, whole)


def test_a_condition_that_the_body_reads_directly_stays_an_input_of_it() -> None:
    whole = small(
        [value("x", "batch", 8), value("image", "batch", 8), value("time", "batch", 1)],
        [value("y", "batch", 8)],
        [node("Add", "x image", "sum"), node("Tanh", "time", "row"), node("Mul", "sum row", "y")],
    )
    prepared = cut_prologue(whole)
    assert [v.name for v in prepared.body.inputs] == ["x", "image", "row"]
    assert_equivalent(whole, prepared)


def test_where_the_body_reads_nothing_else_there_is_no_prologue() -> None:
    whole = small(
        [value("x", "batch", 8), value("image", "batch", 8)], [value("y", "batch", 8)], [node("Add", "x image", "y")]
    )
    assert cut_prologue(whole) == PreparedDenoiser(None, whole)


def test_a_mask_is_read_directly_though_it_could_be_no_row() -> None:
    whole = small(
        [value("x", "batch", 8), value("mask", "batch", 8, dtype="bool"), value("time", "batch", 1)],
        [value("y", "batch", 8)],
        [node("Tanh", "time", "row"), node("Where", "mask x row", "y")],
    )
    prepared = cut_prologue(whole)
    assert [(v.name, v.dtype.name) for v in prepared.body.inputs[1:]] == [("mask", "bool"), ("row", "float32")]
    assert_equivalent(whole, prepared)


def test_a_denoiser_without_conditions_has_no_prologue() -> None:
    whole = small([value("x", "batch", 8)], [value("y", "batch", 8)], [node("Relu", "x", "y")])
    assert cut_prologue(whole) == PreparedDenoiser(None, whole)


def test_a_boundary_that_is_no_row_leaves_the_graph_whole() -> None:
    """Labels that choose among tensors made from x: an integer would cross the boundary."""
    whole = small(
        [value("x", "batch", 8), value("label", "batch", dtype="int64")],
        [value("y", "batch", 8)],
        [node("Gather", "x label", "y", axis=0)],
    )
    assert cut_prologue(whole) == PreparedDenoiser(None, whole)


def test_the_batch_of_a_condition_is_read_in_the_body_and_the_rest_leaves_it() -> None:
    """What exporters write of `positions.expand(len(label), ...)`."""
    whole = small(
        [value("x", "batch", 4), value("time", "batch", 1), value("label", "batch", dtype="int64")],
        [value("y", "batch", 4)],
        [
            node("Shape", "label", "size"),
            node("Concat", "size four", "given", axis=0),
            node("Equal", "given open", "is_open"),
            node("Where", "is_open ones given", "sizes"),
            node("Expand", "two sizes", "plane"),
            node("Concat", "x plane", "wide", axis=1),
            node("MatMul", "wide narrow", "h"),
            node("MatMul", "time w", "row"),
            node("Add", "h row", "y"),
        ],
        four=np.int64([4]),
        open=np.int64([-1, -1]),
        ones=np.int64([1, 1]),
        two=np.float32([[2.0]]),
        narrow=np.eye(8, 4, dtype=np.float32),
        w=[[1.0, 2.0, 3.0, 4.0]],
    )
    prepared = cut_prologue(whole)
    assert prepared.prologue is not None and prepared.prologue.ops() == ("MatMul",)
    assert [v.name for v in prepared.body.inputs] == ["x", "label", "row"]
    assert_equivalent(whole, prepared)


def test_a_mask_of_a_condition_is_made_in_the_body_and_the_rest_leaves_it() -> None:
    whole = small(
        [value("x", "batch", 4), value("time", "batch", 1), value("label", "batch", 1, dtype="int64")],
        [value("y", "batch", 4)],
        [
            node("Equal", "label null", "is_null"),
            node("Where", "is_null zero x", "h"),
            node("Tanh", "time", "row"),
            node("Mul", "h row", "y"),
        ],
        null=np.int64(1),
        zero=0.0,
    )
    prepared = cut_prologue(whole)
    assert prepared.prologue is not None and prepared.prologue.ops() == ("Tanh",)
    assert prepared.body.ops() == ("Equal", "Where", "Mul")
    assert_equivalent(whole, prepared)


def test_assert_same_sees_a_difference() -> None:
    a = small([value("x", "batch", 8)], [value("y", "batch", 8)], [node("Relu", "x", "y")])
    b = small([value("x", "batch", 8)], [value("y", "batch", 8)], [node("Neg", "x", "y")])
    try:
        assert_same(a, b)
    except AssertionError:
        return
    raise RuntimeError("the oracle of these tests is blind")
