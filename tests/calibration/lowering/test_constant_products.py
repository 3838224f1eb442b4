"""Constants behind int8 operations go into the scales of weights, and the results stay."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.quantize import lower, lower_graph
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.graph.graph import Graph, Node
from fewstep.graph.session import open_session
from tests.calibration.lowering.bodies.uneven_body import given, layer, seen

BY = 300.0


def scaled(kind: str, by: float = BY) -> Graph:
    """`layer` whose sum of product and bias is multiplied, and divided again behind the last layer's sum."""
    graph = layer(kind)
    *before, added, last = graph.nodes
    nodes = [*before, added, Node("Mul", (added.output, "by"), ("grown",)), replace(last, inputs=("grown", "last"))]
    small = graph.constants["last"] / np.float32(by)
    return graph.with_nodes(nodes, {"by": np.array(by, np.float32), "last": small})


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_a_constant_goes_into_weight_and_bias(kind: str) -> None:
    graph, fed = scaled(kind), given(layer(kind))
    table = seen(graph, fed)
    folded = lower_graph(graph, table, OPENVINO)[0]
    plain = lower_graph(graph, table, replace(OPENVINO, finish=()))[0]
    assert [node.output for node in plain.nodes if node.output not in {each.output for each in folded.nodes}] == [
        "grown"
    ]
    results = [open_session(each, fuse_qdq=False)(fed)["output"] for each in (folded, plain)]
    assert results[0] == pytest.approx(results[1], abs=1e-5 * np.abs(results[1]).max())


def test_a_negative_constant_stays() -> None:
    graph = scaled("Conv", -BY)
    assert any(node.output == "grown" for node in lower_graph(graph, seen(graph, given(graph)), OPENVINO)[0].nodes)


def test_openvino_then_runs_the_operation_in_integers() -> None:
    pytest.importorskip("openvino")
    graph = scaled("Conv")
    assert lower(graph, seen(graph, given(graph)), OPENVINO).coverage.int8_ops == ("b",)
