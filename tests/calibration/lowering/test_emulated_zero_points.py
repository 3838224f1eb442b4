"""Centred activations: the same values, on a grid twice as fine."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.emulated_zero_points import centre
from fewstep.calibration.lowering.encoding import Encoding, choose_int8, symmetric_int8
from fewstep.calibration.lowering.quantize import lower, lower_graph
from fewstep.calibration.lowering.targets.tensorrt import TENSORRT
from fewstep.calibration.ranges.table import Range, Ranges, RangesTable
from fewstep.graph.graph import GROUP, Array, Graph
from fewstep.graph.index import index
from fewstep.graph.prepare import prepare
from fewstep.graph.selection import WeightedOp, select_int8_ops
from fewstep.graph.session import run
from fewstep.graph.weight_quantization import QuantizedWeight, quantize_weight
from tests.calibration.lowering.bodies.small_body import body, edit_nodes, feeds, open_simulation, sqnr, table
from tests.graph.random_networks import Writer, network
from tests.onnx_text import graph_of_text

UNCENTRED = replace(TENSORRT, scheme=replace(TENSORRT.scheme, encode=symmetric_int8))
HALF = np.dtype(np.float16)


def round_weights(prepared: Graph) -> tuple[Graph, dict[str, QuantizedWeight]]:
    """Return the graph with weights rounded to int8, so that centring only changes the order of sums."""
    weights = {op.name: quantize_weight(prepared.constants[op.weight], op.axis) for op in select_int8_ops(prepared)}
    constants = {op.weight: weights[op.name].dequantize() for op in select_int8_ops(prepared)}
    return prepared.with_nodes(prepared.nodes, constants), weights


def centre_weights(
    prepared: Graph, weights: dict[str, QuantizedWeight]
) -> tuple[Graph, tuple[WeightedOp, ...], dict[str, Encoding]]:
    ops = select_int8_ops(prepared)
    codes = {op.x: choose_int8(table(prepared)[op.x], False) for op in ops}
    return centre(prepared, ops, codes, weights, HALF)


@pytest.mark.parametrize("spatial", [1, 2])
def test_the_centred_graph_computes_the_same_at_borders_too(spatial: int) -> None:
    prepared, weights = round_weights(body(spatial))
    graph, _, _ = centre_weights(prepared, weights)
    assert graph.nodes != prepared.nodes
    expected = run(prepared, feeds(prepared))["output"]
    np.testing.assert_allclose(run(graph, feeds(prepared))["output"], expected, atol=2e-5 * np.abs(expected).max())


def test_zero_is_a_number_of_the_code_and_both_ends_are_reached() -> None:
    prepared, weights = round_weights(body())
    graph, ops, codes = centre_weights(prepared, weights)
    assert {op.x for op in ops} == codes.keys() and not any(code.zero_point for code in codes.values())
    for x in ("a1", "a3"):
        seen, (step,) = table(prepared)[x].pooled, codes[f"{x}_padded_centred"].scales
        middle = float(graph.constants[f"{x}_middle"])
        assert step == np.float16(step)  # as the lowered graph has it
        assert middle / step == pytest.approx(round(middle / step), abs=1e-4)
        assert 126 < (seen.high - middle) / step < 127.6 and -128.6 < (seen.low - middle) / step < -127
        assert step < 0.6 * table(prepared)[x].pooled_symmetric / 127


def test_it_takes_half_the_step_and_loses_half_the_noise() -> None:
    """SiLU leaves almost nothing below zero, so the step halves: 6 dB. The error of weights stays."""
    prepared = body()
    name = "shortcut_biased"
    expected = run(prepared, feeds(prepared), [name])[name]
    centred, uncentred = (
        sqnr(expected, open_simulation(lower(prepared, table(prepared), target).graph, [name])(feeds(prepared))[name])
        for target in (TENSORRT, UNCENTRED)
    )
    assert 2.5 < centred - uncentred < 6.5


def test_an_operation_reads_what_another_makes_with_its_shift() -> None:
    """Two convolutions with nothing between them, not even a bias."""
    prepared = prepare(network([Writer.silu, Writer.halve], 0)).body
    ((_, expected),) = run(prepared, feeds(prepared)).items()
    ((_, found),) = run(lower(prepared, table(prepared), TENSORRT).graph, feeds(prepared)).items()
    assert sqnr(expected, found) > 30


def test_an_activation_around_zero_stays_where_it_is() -> None:
    prepared, weights = round_weights(body())
    ops = select_int8_ops(prepared)
    even = {op.x: Encoding(np.array([0.01]), np.int8(0)) for op in ops}
    graph, same, codes = centre(prepared, ops, even, weights, HALF)
    assert graph.nodes == prepared.nodes and same == ops and codes == even


def test_a_border_of_unknown_width_keeps_its_activation_uncentred() -> None:
    """Its code is then symmetric, for the same values; other operations read the centred one."""
    prepared, weights = round_weights(body())
    padded = edit_nodes(prepared, "h2", auto_pad=b"SAME_UPPER", pads=None, strides=None)
    graph, ops, codes = centre_weights(padded, weights)
    assert {op.name: op.x for op in ops}["h2"] == "a1" and "a1_centred" in codes
    wanted = table(prepared)["a1"].pooled_symmetric
    assert codes["a1"].zero_point == 0 and codes["a1"].scales * 127 == pytest.approx(wanted, rel=1e-2)
    expected = run(padded, feeds(padded))["output"]
    np.testing.assert_allclose(run(graph, feeds(padded))["output"], expected, atol=2e-5 * np.abs(expected).max())


def test_operations_keep_their_names_and_what_stands_after_them() -> None:
    prepared = body()
    graph, ops, _ = lower_graph(prepared, table(prepared), TENSORRT)
    assert ops == select_int8_ops(prepared)
    idx = index(graph)
    for op in ops:  # the shift is in the bias that was there
        (reader,) = idx.consumers[op.name]
        assert reader.op == "Add" and reader.output == f"{op.name}_biased"


def test_a_layer_without_a_bias_gets_one() -> None:
    """Several operations may read its output, and all of them read the sum."""
    prepared, weights = round_weights(body())
    renamed = tuple(
        replace(node, inputs=tuple("h2" if name == "h2_biased" else name for name in node.inputs))
        for node in prepared.nodes
        if node.output != "h2_biased"
    )
    bare = replace(prepared, nodes=renamed)
    graph, _, _ = centre_weights(bare, weights)
    assert graph.constants["h2_shift"].shape == (1, 32, 1, 1)
    expected = run(bare, feeds(bare))["output"]
    np.testing.assert_allclose(run(graph, feeds(bare))["output"], expected, atol=2e-5 * np.abs(expected).max())


def wide(inner: str = "b = MatMul(a, w) sum = Identity(b)") -> Graph:
    """x [B, 512] -> a = x -> inner layers, b = a W -> output, W = 1/2 everywhere."""
    eye, text = np.eye(512), f"a = MatMul(x, first) {inner} output = MatMul(sum, last)"
    weights = {"w": np.full((512, 32), 0.5), "small": np.full((512, 32), 1 / 128)}
    ports = "(float[batch, 512] x) => (float[batch, 32] output)"
    return graph_of_text(f"{ports} {{ {text} }}", first=eye, last=eye[:32, :32], **weights)


@pytest.mark.parametrize("edges, given", [((), {}), ((0.0,), {GROUP: np.array([1])})])
def test_a_shift_beyond_float16_leaves_its_activation_uncentred(
    edges: tuple[float, ...], given: dict[str, Array]
) -> None:
    """c = 500 times a sum of 256 is beyond float16, although the operation's result, 950, is not."""
    groups = [Range(-0.28 * part, 1000 * part) for part in ((0.5, 1.0) if edges else (1.0,))]
    of_a = Ranges(groups[-1], tuple(groups), groups[-1].high, tuple(group.high for group in groups))
    graph = lower(wide(), RangesTable("0" * 64, "ddim:2", edges, "minmax", {"a": of_a}), TENSORRT).graph
    x = np.zeros((1, 512), np.float32)
    x[0, :2] = 950
    np.testing.assert_allclose(open_simulation(graph)({"x": x} | given)["output"], 950, rtol=5e-3)
    assert "Sub" not in graph.ops()


def test_a_shift_that_overflows_leaves_other_readers_centred() -> None:
    """Each reads the tensor in a separate code."""
    both, weights = round_weights(wide("b = MatMul(a, w) c = MatMul(a, small) sum = Add(b, c)"))
    code = Encoding(np.array([1000 / 255]), np.int8(-128))
    graph, ops, codes = centre(both, select_int8_ops(both), {"a": code}, weights, HALF)
    assert {op.name: op.x for op in ops} == {"b": "a", "c": "a_centred"}
    assert {x: (each.zero_point, *(127 * each.scales)) for x, each in codes.items()} == {
        "a": (0, pytest.approx(1000)),
        "a_centred": (0, pytest.approx(1000 / 2, rel=1e-2)),
    }
    x = np.linspace(0, 1, 512, dtype=np.float32)[None]
    np.testing.assert_allclose(run(graph, {"x": x})["output"], run(both, {"x": x})["output"], rtol=1e-4)
