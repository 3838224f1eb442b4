"""Values that depend on conditions alone leave the prologue, and both parts compute the same as before."""

import numpy as np
import pytest

from fewstep.graph.cuts.conditioner import WORTH, ConditionerSplit, cut_conditioner
from fewstep.graph.cuts.prologue import PreparedDenoiser, open_rows
from fewstep.graph.graph import Graph
from fewstep.graph.session import run
from tests.graph.small_graphs import assert_close, feeds
from tests.onnx_text import graph_of_text

MACS = 8 * 3 * 25 * 16  # of the convolution below: outputs 8 x 4 x 4, each of 3 x 5 x 5 products
ENCODER = "maps = Conv<pads=[2, 2, 2, 2], kernel_shape=[5, 5]>(picture, w) seen = ReduceMean<keepdims=0>(maps, space)"
TIMED = "column = Unsqueeze(time, last) row = Mul({}, column)"
RNG = np.random.default_rng(0)
CONSTANTS = {
    **{
        "space": np.int64([2, 3]),
        "last": np.int64([1]),
        "places": np.int64([1, 2]),
        "zero": 0.0,
        "identity": np.eye(4),
    },
    **{"w": RNG.standard_normal((8, 3, 5, 5)), "u": RNG.standard_normal((4, 8)), "v": RNG.standard_normal((16, 8))},
}


def prologue(inputs: str, outputs: str, body: str) -> Graph:
    return graph_of_text(f"(float[batch] time, {inputs}) => ({outputs}) {{ {body} }}", **CONSTANTS)


def observing(others: str = "", also: str = "", body: str = TIMED.format("seen")) -> Graph:
    """row = mean(Conv(picture)) * time, and `seen`, which does not depend on time."""
    return prologue(f"float[batch, 3, 4, 4] picture{others}", f"float[batch, 8] row{also}", f"{ENCODER} {body}")


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
    cut = cut_conditioner(observing(also=", float[batch, 8] seen"), worth=1)
    assert cut.conditioner is not None and [v.name for v in cut.conditioner.outputs] == ["seen"]
    assert cut.prologue is not None and [v.name for v in cut.prologue.outputs] == ["row"]
    assert_equivalent(observing(also=", float[batch, 8] seen"), cut)


def test_without_a_time_nothing_is_left_of_the_prologue() -> None:
    timeless = prologue("float[batch, 4] picture", "float[batch, 4] row", "row = MatMul(picture, identity)")
    cut = cut_conditioner(timeless, worth=1)
    assert cut.prologue is None and cut.conditioner is not None
    assert_equivalent(timeless, cut)


def test_what_cannot_be_carried_is_made_where_it_is_read() -> None:
    """A boolean cannot be a row: the comparison stays in the prologue, and its operands come from the conditioner."""
    body = """seen = MatMul(picture, identity) is_bright = Greater(seen, zero)
    column = Unsqueeze(time, last) row = Where(is_bright, column, seen)"""
    masked = prologue("float[batch, 4] picture", "float[batch, 4] row", body)
    cut = cut_conditioner(masked, worth=1)
    assert cut.conditioner is not None and [v.name for v in cut.conditioner.outputs] == ["seen"]
    assert cut.prologue is not None and "Greater" in cut.prologue.ops()
    assert_equivalent(masked, cut)


def test_a_condition_with_little_work_is_the_prologues() -> None:
    """row = (mean(Conv(picture)) + state u) * time: the state takes 4 x 8 products, and the picture 9 600."""
    body = f"own = MatMul(state, u) both = Add(seen, own) {TIMED.format('both')}"
    graph = observing(others=", float[batch, 4] state", body=body)
    cut = cut_conditioner(graph, worth=MACS, little=MACS // 32)
    assert cut.conditioner is not None and [port.name for port in cut.conditioner.inputs] == ["picture"]
    assert cut.prologue is not None and {port.name for port in cut.prologue.inputs} == {"time", "state", "seen"}
    assert_equivalent(graph, cut)
    whole = cut_conditioner(graph, worth=MACS, little=MACS // 32 + 1)
    assert whole.conditioner is not None and {port.name for port in whole.conditioner.inputs} == {"picture", "state"}


def test_a_condition_whose_cut_would_move_the_encoder_stays_in_the_conditioner() -> None:
    """The sequence comes first in the encoder, so that a gain of 8 numbers meets a tensor that is not a row."""
    body = """sequence = Transpose<perm=[1, 0, 2]>(text) encoded = MatMul(sequence, v) scaled = Mul(encoded, gain)
    seen = Transpose<perm=[1, 0, 2]>(scaled) column = Unsqueeze(time, places) row = Mul(seen, column)"""
    graph = prologue("float[batch, 4, 16] text, float[batch, 8] gain", "float[batch, 4, 8] row", body)
    cut = cut_conditioner(graph, worth=1)
    assert cut.conditioner is not None and cut.conditioner.ops() == ("Transpose", "MatMul", "Mul", "Transpose")
    assert cut.prologue is not None and cut.prologue.ops() == ("Unsqueeze", "Mul")
    assert_equivalent(graph, cut)


@pytest.mark.parametrize(("side", "is_large"), [(16, False), (48, True)])
def test_a_large_row_without_work_is_not_made_once_for_each_time(side: int, is_large: bool) -> None:
    """A mask's row takes no products besides those of the picture's encoder: 1 kB of it is computed again, 9 kB are
    not.
    """
    plane = f"float[batch, {side}, {side}]"
    body = f"{TIMED.format('seen')} shown = Neg(mask)"
    graph = observing(f", {plane} mask", f", float[batch, 8] seen, {plane} shown", body)
    cut = cut_conditioner(graph, worth=1)
    assert cut.conditioner is not None and ("Neg" in cut.conditioner.ops()) == is_large
    assert_equivalent(graph, cut)
