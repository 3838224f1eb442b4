"""Export names work that depends on times only but cannot leave the loop, with the tensor that keeps it there."""

import numpy as np
import pytest

from fewstep.export.graph_warnings import warn_of_repeated_work
from fewstep.graph.graph import Graph
from fewstep.graph.prepare import prepare
from tests.bundles import node
from tests.onnx_text import graph_of_text


def with_row(made: str) -> Graph:
    """x + a layer of one time for all samples (`first`), or of the time of each (`each`), + a layer of a condition."""
    return graph_of_text(
        f"""(float[batch, 4] x, float[batch] time, float[batch, 1] text) => (float[batch, 4] y) {{
            first = Gather<axis=0>(time, zero) each = Unsqueeze(time, last)
            row = MatMul({made}, w) said = MatMul(text, w) sum = Add(x, row) y = Mul(sum, said)
        }}""",
        **{"zero": np.int64([[0]]), "last": np.int64([1]), "w": np.float32([[1, 2, 3, 4]])},
    )


def test_work_that_stays_in_every_step_is_named(caplog: pytest.LogCaptureFixture) -> None:
    prepared = prepare(with_row("first"))
    assert prepared.prologue is not None and prepared.prologue.ops() == ("MatMul",)
    warn_of_repeated_work(prepared)
    (record,) = caplog.records
    assert record.message == (
        "operations that depend only on times and conditions run at every step (1 of them): results such as 'row' "
        "(float32 [1, 4]) are "
        "not float32 with one part per sample; let the network compute them as float32 [batch, ...]"
    )


def test_a_mask_that_takes_no_work_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The first tensor that is not a row may be one without work, such as the mask of a missing text."""
    graph = with_row("first")
    masked = [node("Equal", "text missing", "is_missing"), node("Where", "is_missing x sum", "kept")]
    nodes = [*graph.nodes[:-1], *masked, node("Mul", "kept said", "y")]
    warn_of_repeated_work(prepare(graph.with_nodes(nodes, {"missing": np.float32([0])})))
    assert ["'row' (float32 [1, 4])" in record.message for record in caplog.records] == [True]


def test_what_leaves_the_loop_or_is_no_work_is_not_named(caplog: pytest.LogCaptureFixture) -> None:
    prepared = prepare(with_row("each"))
    assert prepared.prologue is not None
    warn_of_repeated_work(prepared)
    warn_of_repeated_work(prepare(graph_of_text("(float[batch, 4] x) => (float[batch, 4] y) { y = Relu(x) }")))
    assert not caplog.records
