"""Centred activations: the same numbers, on twice as fine a grid."""

from dataclasses import replace

import numpy as np
import pytest
from small_body import EDGES, body, feeds, open_simulation, sqnr, table

from fewstep.calibration.lowering.centring import centre
from fewstep.calibration.lowering.quantize import lower, lower_graph
from fewstep.calibration.lowering.selection import selected_ops
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.calibration.ranges.table import Range, Ranges, RangesTable
from fewstep.calibration.weights import QuantizedWeight, quantize_weight
from fewstep.graph.graph import Graph
from fewstep.graph.index import index
from fewstep.graph.session import run

UNCENTRED = replace(TENSORRT, scheme=replace(TENSORRT.scheme, centred=False))


def rounded(prepared: Graph) -> tuple[Graph, dict[str, QuantizedWeight]]:
    """The graph with its weights as int8 holds them, so that centring changes nothing but the order of sums."""
    weights = {op.name: quantize_weight(prepared.constants[op.weight], op.axis, "mse") for op in selected_ops(prepared)}
    constants = {op.weight: weights[op.name].dequantized() for op in selected_ops(prepared)}
    return prepared.with_nodes(prepared.nodes, constants), weights


@pytest.mark.parametrize("spatial", [1, 2])
def test_the_centred_graph_computes_the_same_at_borders_too(spatial: int) -> None:
    prepared, weights = rounded(body(spatial))
    graph, _ = centre(prepared, table(prepared), weights, selected_ops(prepared))
    assert graph.nodes != prepared.nodes
    expected = run(prepared, feeds(prepared))["output"]
    np.testing.assert_allclose(run(graph, feeds(prepared))["output"], expected, atol=2e-5 * np.abs(expected).max())


def test_zero_is_a_number_of_the_code_and_both_ends_are_reached() -> None:
    prepared, weights = rounded(body())
    graph, ranges = centre(prepared, table(prepared, EDGES), weights, selected_ops(prepared))
    for x in ("a1", "a3"):
        seen, found = table(prepared)[x].pooled, ranges[f"{x}_padded_centred"]
        step = found.pooled_symmetric / 127
        middle = float(graph.constants[f"{x}_middle"])
        assert middle / step == pytest.approx(round(middle / step), abs=1e-4)
        assert (seen.high - middle) / step < 127.51 and (seen.low - middle) / step > -127.51
        assert found.pooled_symmetric < 0.6 * table(prepared)[x].pooled_symmetric
        assert len(found.per_group_symmetric) == len(EDGES) + 1


def test_it_takes_half_the_step_and_loses_half_the_noise() -> None:
    """6 dB for a half: SiLU leaves next to nothing below zero. The rounding of weights has its share, which stays."""
    prepared = body()
    name = "shortcut_biased"
    expected = run(prepared, feeds(prepared), [name])[name]
    centred, uncentred = (
        sqnr(expected, open_simulation(lower(prepared, table(prepared), target).graph, [name])(feeds(prepared))[name])
        for target in (TENSORRT, UNCENTRED)
    )
    assert 2.5 < centred - uncentred < 6.5


def test_an_activation_around_zero_stays_where_it_is() -> None:
    prepared, weights = rounded(body())
    around = Ranges(Range(-1.0, 1.1), (Range(-1.0, 1.1),), 1.1, (1.1,))
    even = RangesTable("0" * 64, "ddim:3", (), "mse", dict.fromkeys(table(prepared).tensors, around))
    graph, ranges = centre(prepared, even, weights, selected_ops(prepared))
    assert graph.nodes == prepared.nodes and ranges.tensors == even.tensors


def test_operations_keep_their_names_and_what_stands_behind_them() -> None:
    prepared = body()
    graph, ops, _ = lower_graph(prepared, table(prepared), TENSORRT)
    assert [op.name for op in ops] == [op.name for op in selected_ops(prepared)]
    idx = index(graph)
    for op in ops:  # the shift is in the bias that was there
        (reader,) = idx.consumers[op.name]
        assert reader.op == "Add" and reader.output == f"{op.name}_biased"


def test_a_layer_without_a_bias_gets_one() -> None:
    """Its output may be read by several, which all read the sum."""
    prepared, weights = rounded(body())
    renamed = tuple(
        replace(node, inputs=tuple("h2" if name == "h2_biased" else name for name in node.inputs))
        for node in prepared.nodes
        if node.output != "h2_biased"
    )
    bare = replace(prepared, nodes=renamed)
    graph, _ = centre(bare, table(bare), weights, selected_ops(bare))
    assert graph.constants["h2_shift"].shape == (1, 32, 1, 1)
    expected = run(bare, feeds(bare))["output"]
    np.testing.assert_allclose(run(graph, feeds(bare))["output"], expected, atol=2e-5 * np.abs(expected).max())
