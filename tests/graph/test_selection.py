"""Parts of a graph: selected operations, and the parts into which a graph splits."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewstep.graph.cuts.partition import partition_graph
from fewstep.graph.files.weights import weight_bytes
from fewstep.graph.graph import Graph
from fewstep.graph.selection import is_quantized, select_int8_ops
from fewstep.graph.session import run
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import SELECTED, body
from tests.graph.small_graphs import assert_close, feeds, value
from tests.onnx_text import graph_of_text

OUTER = {"w_first": (32, 3, 1, 1), "w_last": (3, 32, 1, 1)}


def chain(body: str, first: str = "a = Conv(x, w_first)", last: str = "y = Conv(b, w_last)", **shapes: Any) -> Graph:
    """x -> first -> the body (reading "a", making "b") -> last -> y."""
    constants = {name: np.ones(shape, np.float32) for name, shape in {**OUTER, **shapes}.items()}
    ports = "(float[batch, 3, 4, 4] x, float[batch, 32, 1, 1] time) => (float[batch, 3, 4, 4] y)"
    return graph_of_text(f"{ports} {{ {first} {body} {last} }}", **constants)


def names(graph: Graph) -> list[str]:
    return [op.name for op in select_int8_ops(graph)]


def test_inner_layers_are_selected_and_the_first_and_the_last_are_not() -> None:
    assert names(body()) == ["shortcut", "h2", "mixed", "h3"]
    assert set(names(body())) == set(SELECTED)


INNER = (32, 32, 1, 1)
BODIES: dict[str, tuple[Graph, list[str]]] = {
    "sixteen channels on both sides": (
        chain("n = Conv(a, w) b = Conv(n, v)", w=(16, 32, 1, 1), v=(32, 16, 1, 1)),
        ["n", "b"],
    ),
    "fifteen channels on one side": (chain("n = Conv(a, w) b = Conv(n, v)", w=(15, 32, 1, 1), v=(32, 15, 1, 1)), []),
    "a depthwise convolution": (chain("b = Conv<group=32>(a, w)", w=(32, 1, 3, 3)), []),
    "a layer between transposed convolutions is neither first nor last": (
        chain(
            "b = Conv(a, w)",
            "a = ConvTranspose(x, w_first)",
            "y = ConvTranspose(b, w_last)",
            **{"w": INNER, "w_first": (3, 32, 1, 1), "w_last": (32, 3, 1, 1)},
        ),
        ["b"],
    ),
    "a layer that also sees x is a first one": (
        chain("both = Concat<axis=1>(a, x) b = Conv(both, w)", w=(32, 35, 1, 1)),
        [],
    ),
    "a layer that only shares sizes with x or the output is neither": (  # as graphs with free sizes do
        chain(
            """size = Shape(x) rows = Reshape(a, size) inner = Conv(rows, w) wide = Conv(inner, w)
            own = Shape(inner) b = Reshape(wide, own)""",
            w=INNER,
        ),
        ["inner", "wide"],
    ),
    "a layer whose sizes alone shape the output is not the last": (
        chain(
            "inner = Conv(a, w) own = Shape(inner) rows = Conv(inner, w_last)", last="y = Reshape(rows, own)", w=INNER
        ),
        ["inner"],
    ),
    "what does not depend on x": (chain("t = Conv(time, w) u = Conv(t, w) b = Add(a, u)", w=INNER), []),
    "a product": (chain("b = Gemm(a, w, bias)", w=(32, 32), bias=(32,)), ["b"]),
    "a product by a transposed weight": (chain("b = Gemm<transB=1>(a, w, bias)", w=(32, 32), bias=(32,)), ["b"]),
    "a product with a factor": (chain("b = Gemm<alpha=0.5>(a, w, bias)", w=(32, 32), bias=(32,)), []),
    "a product of a transposed activation": (chain("b = Gemm<transA=1>(a, w, bias)", w=(32, 32), bias=(32,)), []),
}


@pytest.mark.parametrize(("graph", "selected"), BODIES.values(), ids=BODIES)
def test_inner_plain_layers_of_x_with_enough_channels_are_selected(graph: Graph, selected: list[str]) -> None:
    assert names(graph) == selected


@pytest.mark.parametrize(
    ("call", "op", "says"),
    [
        ("QuantizeLinear(a, s, z)", "QuantizeLinear", "quantized already: .*; export the original float denoiser"),
        ("QLinearConv(a, s, z)", "QLinearConv", "quantized already: .*; export the original float denoiser"),
        ("MatMulInteger(a, s, z)", "MatMulInteger", "quantized already: .*; export the original float denoiser"),
        ("com.microsoft.QGemm(a)", "QGemm", "quantized already"),
        ("com.microsoft.Gelu(a)", "Gelu", "an onnxruntime operation"),
        ("com.microsoft.nchwc.Conv(a)", "Conv", "an onnxruntime operation"),
    ],
)
def test_what_was_quantized_or_optimized_is_refused_by_name(call: str, op: str, says: str) -> None:
    with pytest.raises(UserError, match=f"{says}") as failure:
        select_int8_ops(chain(f"b = {call}", s=(), z=()))
    assert f"'b' is a {op}" in failure.value.what


@pytest.mark.parametrize(
    ("domain", "ops"),
    [
        (
            "",
            "QuantizeLinear DequantizeLinear DynamicQuantizeLinear QLinearConv QLinearMatMul MatMulInteger ConvInteger",
        ),
        (
            "com.microsoft",
            "QuantizeLinear DequantizeLinear QGemm QAttention QLinearAdd QLinearSoftmax QMoE QOrderedMatMul "
            "QEmbedLayerNormalization DynamicQuantizeMatMul DynamicQuantizeLSTM MatMulIntegerToFloat MatMulNBits "
            "GatherBlockQuantized",
        ),
    ],
)
def test_integer_operations_are_known_in_both_domains(domain: str, ops: str) -> None:
    assert [op for op in ops.split() if not is_quantized(op, domain)] == []


def test_float_operations_are_none_of_them() -> None:
    assert not any(is_quantized(op, "") for op in ("Conv", "Gemm", "MatMul", "Cast", "Gather"))
    assert not any(is_quantized(op, "com.microsoft") for op in ("QuickGelu", "Gelu", "FusedConv", "Attention"))
    assert not is_quantized("QuantizeLinear", "somebody.else")


LAYER = 4 * 16 * 16  # bytes of one weight


def skipping() -> Graph:
    """Four layers: the last reads the output of the first, and two of them share a weight."""
    rng = np.random.default_rng(0)
    return graph_of_text(
        """(float[batch, 16] x) => (float[batch, 16] y, float[batch, 16] b)
        { a = MatMul(x, w0) b = MatMul(a, w1) c = MatMul(b, w1) d = MatMul(c, w2) y = Add(d, a) }""",
        **{f"w{i}": rng.standard_normal((16, 16)) / 4 for i in range(3)},
    )


@pytest.mark.parametrize(("limit", "count"), [(0, 3), (LAYER, 3), (2 * LAYER, 2), (3 * LAYER, 1)])
def test_parts_in_turn_compute_the_graph(limit: int, count: int) -> None:
    graph = skipping()
    pieces = list(partition_graph(graph, limit))
    assert len(pieces) == count
    assert [node for piece in pieces for node in piece.nodes] == list(graph.nodes)
    assert all(weight_bytes(piece) <= max(limit, LAYER) for piece in pieces)
    held = given = feeds(graph, 3)
    for piece in pieces:
        assert {port.name for port in piece.inputs} <= held.keys()
        held = held | run(piece, held)
    assert_close(run(graph, given), {name: held[name] for name in ("y", "b")}, rtol=0.0)


def test_a_part_returns_what_is_read_later_and_nothing_else() -> None:
    first, second, third = partition_graph(skipping(), LAYER)
    assert [[port.name for port in piece.outputs] for piece in (first, second, third)] == [["a"], ["b", "c"], ["y"]]


def test_a_border_of_unknown_type_is_named() -> None:
    text = "(float[batch, 2] x) => (float[batch, 2] y) { a = NoSuchOperation(x, w) y = Mul(a, v) }"
    graph = graph_of_text(text, w=[1.0, 2.0], v=[3.0, 4.0])
    with pytest.raises(UserError, match="'a' cannot be inferred"):
        list(partition_graph(graph, 0))


def test_a_port_that_nobody_needs_to_feed_stays_one_in_its_part() -> None:
    graph = replace(skipping(), optional=(value("w1", 16, 16),))
    pieces = list(partition_graph(graph, 0))
    assert [[port.name for port in piece.optional] for piece in pieces] == [[], ["w1"], []]
    assert all("w1" not in [port.name for port in piece.inputs] for piece in pieces)
