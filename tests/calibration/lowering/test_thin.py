"""Which convolutions are thin: the smallest ones, up to a share of the work, and never all."""

import numpy as np
import pytest

from fewstep.calibration.lowering import thin
from fewstep.calibration.lowering.coverage import count, macs
from fewstep.calibration.lowering.quantize import lowered_ops
from fewstep.calibration.lowering.thin import thin_convolutions
from fewstep.graph.graph import BATCH, Graph, Node, Value
from fewstep.graph.selection import selected_ops
from fewstep.report.operations import THIN, operations

WIDE, NARROW = 48, 16
F32 = np.dtype(np.float32)


def chain(*kinds: str) -> Graph:
    """Convolutions one after the other: `wide` ones of 3x3 over 48 channels, and `thin` 1x1 pairs by way of 16."""
    shapes = {"wide": [(WIDE, WIDE, 3)], "thin": [(NARROW, WIDE, 1), (WIDE, NARROW, 1)]}
    layers = [(WIDE, 1, 1), *(layer for kind in kinds for layer in shapes[kind]), (1, WIDE, 1)]
    weights = {f"w{i}": np.ones((out, into, size, size), np.float32) for i, (out, into, size) in enumerate(layers)}
    names = ["x", *(f"h{i}" for i in range(len(layers) - 1)), "y"]
    nodes = tuple(
        Node("Conv", (names[i], f"w{i}"), (names[i + 1],), {"pads": [size // 2] * 4})
        for i, (_, _, size) in enumerate(layers)
    )
    ends = [Value(name, F32, (BATCH, 1, 4, 4)) for name in ("x", "y")]
    return Graph("chain", (ends[0],), (ends[1],), nodes, weights)


def thin_of(graph: Graph) -> tuple[str, ...]:
    return thin_convolutions(graph, selected_ops(graph))


def test_thin_convolutions_are_not_lowered_and_the_report_says_why() -> None:
    graph = chain("wide", "thin", *["wide"] * 9)
    lowered = [op.name for op in lowered_ops(graph)]
    assert lowered == [f"h{number}" for number in (1, *range(4, 13))]
    reasons = [each.reason for each in operations(graph, "int8", count(graph, lowered)).operations]
    assert [number for number, reason in enumerate(reasons) if reason == THIN] == [2, 3]


def test_the_smallest_convolutions_are_thin(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain("wide", "thin", *["wide"] * 9)
    work = macs(graph)
    share = work["h2"] / sum(work.values())
    assert share == work["h3"] / sum(work.values()) == pytest.approx(0.0037, abs=1e-4)
    assert thin_of(graph) == ("h2", "h3")
    monkeypatch.setattr(thin, "LEAST", 1 - 2 * share)  # the outer convolutions have a little too
    assert thin_of(graph) == ("h2",)
    monkeypatch.setattr(thin, "LARGEST", 0.9 * share)
    assert thin_of(graph) == ()


def test_a_convolution_that_sums_many_products_is_not_thin(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = chain("wide", "thin", *["wide"] * 9)  # by way of 16 channels: 48 products, and 16
    monkeypatch.setattr(thin, "SUMMED", 47)
    assert thin_of(graph) == ("h3",)


def test_most_of_the_work_stays_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LARGEST", "SUMMED"):
        monkeypatch.setattr(thin, name, 1e9)
    assert thin_of(chain("wide", "wide")) == ()
    assert len(thin_of(chain(*["wide"] * 24))) == 1


@pytest.mark.parametrize(("products", "left"), [(0, 2), (50, 1), (120, 2)])
def test_products_of_activations_count_where_the_rest_suffices(products: int, left: int) -> None:
    """50 of them have 4 % of the work, which leaves no room for the second; 120 have 10 %, and are not counted."""
    graph = chain("wide", "thin", *["wide"] * 9)
    attention = [Node("MatMul", ("h5", "h5"), (f"p{i}",)) for i in range(products)]
    assert thin_of(graph.with_nodes([*graph.nodes, *attention])) == ("h2", "h3")[:left]
