from dataclasses import replace

import numpy as np
import pytest

from fewstep.graph.conditioner import WORTH, ConditionerSplit, cut_conditioner
from fewstep.graph.graph import Graph
from fewstep.graph.precomputed import open_rows
from fewstep.graph.prologue import PreparedDenoiser
from fewstep.graph.session import run
from tests.graph.small import assert_close, feeds, node, small, value

MACS = 8 * 3 * 25 * 16  # of the convolution below: outputs 8 x 4 x 4, each of 3 x 5 x 5 products


def observing(extra: str = "") -> Graph:
    """row = mean(Conv(picture)) * time, and `seen`, which time has no part in."""
    nodes = [
        node("Conv", "picture w", "maps", pads=[2, 2, 2, 2], kernel_shape=[5, 5]),
        node("ReduceMean", "maps space", "seen", keepdims=0),
        node("Unsqueeze", "time last", "column"),
        node("Mul", "seen column", "row"),
    ]
    return small(
        [value("time", "batch"), value("picture", "batch", 3, 4, 4)],
        [value("row", "batch", 8), *([value(extra, "batch", 8)] if extra else [])],
        nodes,
        w=np.random.default_rng(0).standard_normal((8, 3, 5, 5)).astype(np.float32),
        space=np.int64([2, 3]),
        last=np.int64([1]),
    )


def assert_equivalent(prologue: Graph, cut: ConditionerSplit) -> None:
    prepared = PreparedDenoiser(cut.prologue, prologue, cut.conditioner)
    for batch in (1, 3):
        given = feeds(prologue, batch)
        made = open_rows(prepared)(given)
        assert_close(run(prologue, given), {value.name: made[value.name] for value in prologue.outputs}, rtol=1e-6)


def test_what_depends_on_conditions_alone_leaves_the_prologue() -> None:
    cut = cut_conditioner(observing(), worth=MACS)
    assert cut.conditioner is not None and cut.prologue is not None
    assert cut.conditioner.ops() == ("Conv", "ReduceMean") and cut.prologue.ops() == ("Unsqueeze", "Mul")
    assert [v.name for v in cut.conditioner.inputs] == ["picture"]
    assert [v.name for v in cut.prologue.inputs] == ["time", "seen"]
    assert cut.conditioner.outputs[0].shape == ("batch", 8) and "w" not in cut.prologue.constants
    assert_equivalent(observing(), cut)


def test_little_work_is_no_graph_of_its_own() -> None:
    graph = observing()
    assert cut_conditioner(graph, worth=MACS + 1) == ConditionerSplit(None, graph) and MACS < WORTH


def test_rows_that_time_has_no_part_in_come_from_the_conditioner() -> None:
    cut = cut_conditioner(observing("seen"), worth=1)
    assert cut.conditioner is not None and [v.name for v in cut.conditioner.outputs] == ["seen"]
    assert cut.prologue is not None and [v.name for v in cut.prologue.outputs] == ["row"]
    assert_equivalent(observing("seen"), cut)


def test_without_a_time_nothing_is_left_of_the_prologue() -> None:
    timeless = small(
        [value("time", "batch"), value("picture", "batch", 4)],
        [value("row", "batch", 4)],
        [node("MatMul", "picture w", "row")],
        w=np.eye(4).tolist(),
    )
    cut = cut_conditioner(timeless, worth=1)
    assert cut.prologue is None and cut.conditioner is not None
    assert_equivalent(timeless, cut)


def test_what_cannot_be_carried_is_made_where_it_is_read() -> None:
    """A truth value is no row: the comparison stays in the prologue; what it compares comes from the conditioner."""
    masked = small(
        [value("time", "batch"), value("picture", "batch", 4)],
        [value("row", "batch", 4)],
        [
            node("MatMul", "picture w", "seen"),
            node("Greater", "seen zero", "is_bright"),
            node("Unsqueeze", "time last", "column"),
            node("Where", "is_bright column seen", "row"),
        ],
        w=np.eye(4).tolist(),
        zero=0.0,
        last=np.int64([1]),
    )
    cut = cut_conditioner(masked, worth=1)
    assert cut.conditioner is not None and [v.name for v in cut.conditioner.outputs] == ["seen"]
    assert cut.prologue is not None and "Greater" in cut.prologue.ops()
    assert_equivalent(masked, cut)


def test_a_condition_with_little_work_is_the_prologues() -> None:
    """row = (mean(Conv(picture)) + state u) * time: the state takes 4 x 8 products, and the picture 9 600."""
    graph = observing()
    *before, product = graph.nodes
    nodes = (
        *before,
        node("MatMul", "state u", "own"),
        node("Add", "seen own", "both"),
        replace(product, inputs=("both", *product.inputs[1:])),
    )
    u = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float32)
    inputs = (*graph.inputs, value("state", "batch", 4))
    graph = replace(graph, inputs=inputs, nodes=nodes, constants={**graph.constants, "u": u})
    cut = cut_conditioner(graph, worth=MACS, little=MACS // 32)
    assert cut.conditioner is not None and [each.name for each in cut.conditioner.inputs] == ["picture"]
    assert cut.prologue is not None and {each.name for each in cut.prologue.inputs} == {"time", "state", "seen"}
    assert_equivalent(graph, cut)
    whole = cut_conditioner(graph, worth=MACS, little=MACS // 32 + 1)
    assert whole.conditioner is not None and {each.name for each in whole.conditioner.inputs} == {"picture", "state"}


def test_a_condition_whose_cut_would_move_the_encoder_stays_in_the_conditioner() -> None:
    """The sequence comes first in the encoder, so that what a gain of 8 numbers meets there is no row."""
    graph = small(
        [value("time", "batch"), value("text", "batch", 4, 16), value("gain", "batch", 8)],
        [value("row", "batch", 4, 8)],
        [
            node("Transpose", "text", "sequence", perm=[1, 0, 2]),
            node("MatMul", "sequence w", "encoded"),
            node("Mul", "encoded gain", "scaled"),
            node("Transpose", "scaled", "seen", perm=[1, 0, 2]),
            node("Unsqueeze", "time last", "column"),
            node("Mul", "seen column", "row"),
        ],
        w=np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32),
        last=np.int64([1, 2]),
    )
    cut = cut_conditioner(graph, worth=1)
    assert cut.conditioner is not None and cut.conditioner.ops() == ("Transpose", "MatMul", "Mul", "Transpose")
    assert cut.prologue is not None and cut.prologue.ops() == ("Unsqueeze", "Mul")
    assert_equivalent(graph, cut)


@pytest.mark.parametrize(("side", "is_large"), [(16, False), (48, True)])
def test_a_large_row_without_work_is_not_made_once_for_each_time(side: int, is_large: bool) -> None:
    """A mask's row takes no products beside the encoder of the picture: 1 kB of it are made again, 9 kB are not."""
    graph = observing("seen")
    graph = replace(
        graph,
        inputs=(*graph.inputs, value("mask", "batch", side, side)),
        outputs=(*graph.outputs, value("shown", "batch", side, side)),
        nodes=(*graph.nodes, node("Neg", "mask", "shown")),
    )
    cut = cut_conditioner(graph, worth=1)
    assert cut.conditioner is not None and ("Neg" in cut.conditioner.ops()) == is_large
    assert_equivalent(graph, cut)
