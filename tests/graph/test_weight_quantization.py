"""Weights to int8 per channel, and constant factors that are folded into their scales."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewstep.calibration.lowering import channel_scale_fusion
from fewstep.calibration.lowering.encoding import name_after_equalization
from fewstep.calibration.lowering.quantize import lower, lower_graph
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86
from fewstep.calibration.lowering.targets.openvino import OPENVINO
from fewstep.graph.graph import GROUP, Graph, Node
from fewstep.graph.half_types import BFLOAT16
from fewstep.graph.session import open_session
from fewstep.graph.weight_pairs import limit_pairs
from fewstep.graph.weight_quantization import FACTORS, quantize_weight
from tests.calibration.lowering.bodies.uneven_channels_body import given, layer, products, seen

WEIGHT = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32) * np.geomspace(
    0.01, 10, 16, dtype=np.float32
).reshape(-1, 1, 1, 1)


def errors_of_channels(weight: np.ndarray) -> np.ndarray:
    """Return the error of each channel."""
    restored = quantize_weight(weight, 0).dequantize().astype(np.float64)
    return np.square(restored - weight).sum(axis=(1, 2, 3))


def test_the_scale_is_the_one_that_brute_force_finds() -> None:
    row = WEIGHT[3].ravel().astype(np.float64)
    scales = np.abs(row).max() / 127 * np.linspace(0.4, 1, 601)
    best = min(np.square(np.clip(np.round(row / s), -127, 127) * s - row).sum() for s in scales)
    assert errors_of_channels(WEIGHT)[3] <= 1.05 * best


def test_the_channel_axis_may_be_the_last() -> None:
    matrix = WEIGHT.reshape(16, -1)
    rows, columns = quantize_weight(matrix, 0), quantize_weight(np.ascontiguousarray(matrix.T), -1)
    assert (columns.values.shape, columns.axis) == ((72, 16), 1)
    assert np.array_equal(columns.values.T, rows.values) and np.array_equal(columns.scales, rows.scales)
    assert np.array_equal(columns.dequantize().T, rows.dequantize())


def test_a_channel_of_zeros_gets_scale_one() -> None:
    quantized = quantize_weight(np.zeros((2, 3), np.float32), 0)
    assert quantized.scales.tolist() == [1.0, 1.0] and not quantized.values.any()


def test_nan_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        quantize_weight(np.array([[np.nan]], np.float32), 0)


@pytest.mark.parametrize(
    ("half", "tiny", "least"),
    [(np.float16, 1e-9, np.finfo(np.float16).smallest_subnormal), (BFLOAT16, 1e-40, 2.0**-126)],
    ids=["float16", "bfloat16"],
)
def test_scales_are_numbers_of_the_type_they_are_written_in(half: Any, tiny: float, least: float) -> None:
    """bfloat16's least number is its least normal number, which is float32's."""
    scales = quantize_weight(WEIGHT, 0, half).scales
    assert np.array_equal(scales, scales.astype(half)) and scales.dtype == np.float32
    quiet = quantize_weight(np.full((1, 4), tiny, np.float32), 0, half)
    assert quiet.scales.tolist() == [least] and not quiet.values.any()


def test_a_quiet_channel_keeps_its_levels_in_half() -> None:
    """Its scale is subnormal, half of the least normal number: 0.0039 / 127."""
    quiet = quantize_weight(np.float32([[0.0039, -0.0013]]), 0, np.float16)
    assert quiet.values.tolist() == [[127, -42]] and quiet.scales < np.finfo(np.float16).tiny / 1.9


def test_no_smaller_scale_would_have_been_better() -> None:
    """The search stops when no factor can gain: here all factors were tried."""
    rng = np.random.default_rng(4)
    for power, in_pairs in ((1, False), (1, True), (3, False), (3, True)):  # heavy tails are cut deep
        weight = (rng.standard_normal((8, 300)) ** power).astype(np.float32)
        quantized = quantize_weight(weight, 0, in_pairs=in_pairs)
        errors = np.square(quantized.dequantize().astype(np.float64) - weight).sum(axis=1)
        largest = np.abs(weight).max(axis=1).astype(np.float64) / 127
        if in_pairs:
            sums = weight.astype(np.float64).reshape(8, -1, 2).sum(axis=2)
            largest = np.maximum(largest, np.abs(sums).max(axis=1) / 128)
        for factor in FACTORS:
            scales = (factor * largest).astype(np.float32)[:, None]
            exact = weight / scales.astype(np.float64)
            rounded = np.clip(np.rint(exact), *(limit_pairs(exact, 1) if in_pairs else (-127, 127)))
            assert np.all(errors <= np.square(rounded * scales - weight).sum(axis=1) * (1 + 1e-6))


BY = 300.0


def scale_layer(kind: str, by: float = BY) -> Graph:
    """`layer` with a multiplied sum of product and bias, divided again after the last layer's sum."""
    graph = layer(kind)
    *before, added, last = graph.nodes
    nodes = [*before, added, Node("Mul", (added.output, "by"), ("grown",)), replace(last, inputs=("grown", "last"))]
    small = graph.constants["last"] / np.float32(by)
    return graph.with_nodes(nodes, {"by": np.array(by, np.float32), "last": small})


@pytest.mark.parametrize("kind", ["Conv", "MatMul"])
def test_a_constant_goes_into_weight_and_bias(kind: str) -> None:
    graph, fed = scale_layer(kind), given(layer(kind))
    table = seen(graph, fed)
    folded = lower_graph(graph, table, OPENVINO)[0]
    plain = lower_graph(graph, table, replace(OPENVINO, finish=()))[0]
    assert [node.output for node in plain.nodes if node.output not in {each.output for each in folded.nodes}] == [
        "grown"
    ]
    results = [open_session(each, fuse_qdq=False)(fed)["output"] for each in (folded, plain)]
    assert results[0] == pytest.approx(results[1], abs=1e-5 * np.abs(results[1]).max())


def test_a_negative_constant_stays() -> None:
    graph = scale_layer("Conv", -BY)
    assert any(node.output == "grown" for node in lower_graph(graph, seen(graph, given(graph)), OPENVINO)[0].nodes)


def test_openvino_then_runs_the_operation_in_integers() -> None:
    pytest.importorskip("openvino")
    graph = scale_layer("Conv")
    assert lower(graph, seen(graph, given(graph)), OPENVINO).coverage.int8_ops == ("b",)


def both(kind: str, groups: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Graph, Graph]:
    """Return the lowered layer, and the same with a separate product."""
    prepared = layer(kind)
    ranges = seen(prepared, given(prepared), groups=groups)
    joined = lower(prepared, ranges, CPU_X86).graph
    monkeypatch.setattr(channel_scale_fusion, "_fuse_quantize", lambda *_: ())
    return joined, lower(prepared, ranges, CPU_X86).graph


@pytest.mark.parametrize("groups", [1, 3])
def test_the_same_codes_without_a_product(groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Multipliers are powers of two, so neither way rounds."""
    joined, apart = both("Conv", groups, monkeypatch)
    tables = Counter(Gather=1, Reshape=1) if groups > 1 else Counter()  # a row of one tensor is not split
    before, after = Counter(apart.ops()), Counter(joined.ops())
    assert before - after == Counter(Mul=1) and after - before - Counter(Split=1) == tables
    (written,) = (node for node in joined.nodes if node.op == "QuantizeLinear")
    assert written.inputs[0] == "a" and written.attributes == {"axis": 1}
    for group in range(groups):
        fed = given(joined) | ({GROUP: np.array([group])} if groups > 1 else {})
        code = f"int8({name_after_equalization('a')})"
        found, expected = (open_session(graph, [code])(fed) for graph in (joined, apart))
        for name in (code, "output"):
            np.testing.assert_array_equal(found[name], expected[name])


def test_a_product_of_tokens_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels of tokens are last, where one channel has a scale and the next another."""
    joined, apart = both("MatMul", 1, monkeypatch)
    assert joined.ops() == apart.ops() and products(joined) == Counter(["a"])
