"""Sizes are read off inputs that tie their readers to nothing else: what x has no part in does not read x's."""

import numpy as np
import pytest

from fewstep.graph.graph import Graph
from fewstep.graph.passes.sizes import read_sizes
from fewstep.graph.prepare import prepare
from tests.graph.small import assert_same, node, small, value

WHERE = [  # what exporters write of `expand(len(...), 1, 4)`
    node("Concat", "size one four", "given", axis=0),
    node("Equal", "given open", "is_open"),
    node("Where", "is_open ones given", "sizes"),
]


def tokens(source: str, reader: str = "time") -> Graph:
    """A learned token next to a projection of the time (or of a condition), then a layer over both, added to x. The
    batch of the token is read off `source`."""
    return small(
        [value("x", "batch", 4), value("time", "batch", 1), value("text", "batch", 1)],
        [value("y", "batch", 4)],
        [
            node("Mul", "x x", "squared"),
            node("Shape", source, "size", start=0, end=1),
            *WHERE,
            node("Expand", "token sizes", "learned"),
            node("MatMul", f"{reader} w", "flat"),
            node("Unsqueeze", "flat axis", "timed"),
            node("Concat", "timed learned", "both", axis=1),
            node("MatMul", "both v", "mixed"),
            node("ReduceMean", "mixed axis", "row", keepdims=0),
            node("Add", "squared row", "y"),
        ],
        one=np.int64([1]),
        four=np.int64([4]),
        open=np.int64([-1, -1, -1]),
        ones=np.int64([1, 1, 1]),
        axis=np.int64([1]),
        token=np.float32([[[1, 2, 3, 4]]]),
        w=np.float32([[4, 3, 2, 1]]),
        v=np.arange(16, dtype=np.float32).reshape(4, 4),
    )


@pytest.mark.parametrize("source", ["x", "squared"])
@pytest.mark.parametrize("reader", ["time", "text"])
def test_what_x_has_no_part_in_reads_the_batch_off_its_own_input(source: str, reader: str) -> None:
    before = tokens(source, reader)
    after = read_sizes(before)
    assert [each.inputs for each in after.nodes if each.op == "Shape"] == [(source,), (reader,)]
    assert_same(before, after)
    prepared = prepare(before)
    assert prepared.prologue is not None
    assert prepared.prologue.ops().count("MatMul") == 2 and prepared.body.ops() == ("Mul", "Add")


def test_sizes_of_what_a_reader_follows_from_anyway_stay() -> None:
    for graph in (tokens("time"), tokens("flat"), tokens("text", "text")):
        assert read_sizes(graph) is graph


def test_a_condition_does_not_read_the_batch_of_the_time() -> None:
    """It would leave the conditioner for the prologue, which runs at every time."""
    after = read_sizes(tokens("time", "text"))
    assert [each.inputs for each in after.nodes if each.op == "Shape"] == [("time",), ("text",)]


def test_one_time_for_all_samples_keeps_the_batch_of_x() -> None:
    """A prologue that expanded it would give all steps of a plan the time of the first."""
    before = small(
        [value("x", "batch", 4), value("time", "batch")],
        [value("y", "batch", 4)],
        [
            node("Gather", "time first", "one", axis=0),
            node("Shape", "x", "size", start=0, end=1),
            node("Expand", "one size", "all"),
            node("Unsqueeze", "all last", "row"),
            node("Add", "x row", "y"),
        ],
        first=np.int64(0),
        last=np.int64([1]),
    )
    assert [each.inputs for each in read_sizes(before).nodes] == [each.inputs for each in before.nodes]
    assert prepare(before).prologue is None


def test_sizes_that_its_own_input_lacks_stay() -> None:
    before = small(
        [value("x", "batch", "length"), value("time", "batch", 1)],
        [value("y", "batch", "length")],
        [
            node("Shape", "x", "size"),
            node("Expand", "time size", "wide"),
            node("Add", "x wide", "y"),
        ],
    )
    assert [each.inputs for each in read_sizes(before).nodes] == [each.inputs for each in before.nodes]


def test_a_size_that_the_input_lacks_is_copied_in_no_round() -> None:
    """A length is free, and the time has the batch alone: the sizes are half the time's, and stay so."""
    before = small(
        [value("x", "batch", "length", 4), value("time", "batch", 1)],
        [value("y", "batch", "length", 4)],
        [
            node("Shape", "x", "size", start=0, end=1),
            node("Shape", "x", "long", start=1, end=2),
            node("Concat", "size long four", "sizes", axis=0),
            node("Expand", "token sizes", "learned"),
            node("MatMul", "time w", "flat"),
            node("Unsqueeze", "flat axis", "timed"),
            node("Add", "timed learned", "mixed"),
            node("Add", "x mixed", "y"),
        ],
        four=np.int64([4]),
        axis=np.int64([1]),
        token=np.float32([[[1, 2, 3, 4]]]),
        w=np.float32([[4, 3, 2, 1]]),
    )
    once = read_sizes(before)
    assert_same(before, once)
    assert [each.outputs for each in read_sizes(once).nodes] == [each.outputs for each in once.nodes]
