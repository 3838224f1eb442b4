"""The cpu-x86 target: integer kernels, and scales that change with the lambda group."""

from dataclasses import replace

import numpy as np
import pytest

from fewstep.calibration.lowering.coverage import optimize_graph
from fewstep.calibration.lowering.quantize import emit_graph, lower, tensors_to_encode
from fewstep.calibration.lowering.targets.cpu_x86 import CPU_X86, count_integer_kernels
from fewstep.graph.extents import fix_sizes
from fewstep.graph.graph import BATCH, GROUP, Extent, Graph, Value
from fewstep.graph.selection import select_int8_ops
from fewstep.graph.session import open_session, run
from fewstep.graph.weight_quantization import quantize_weight
from fewstep.plans.errors import UserError
from tests.calibration.lowering.bodies.small_body import (
    EDGES,
    FACTORS,
    SELECTED,
    Builder,
    body,
    edit_nodes,
    feeds,
    table,
)
from tests.exact_int8 import open_exact
from tests.refusals import refuses

SCHEME = CPU_X86.scheme


def one_group(prepared: Graph, group: int) -> Graph:
    """Return the grouped graph with the scales of one group as constants."""
    ops, ranges = select_int8_ops(prepared), table(prepared, EDGES)
    weights = {op.name: quantize_weight(prepared.constants[op.weight], op.axis) for op in ops}
    codes = {name: SCHEME.encode(ranges[name], True) for name in tensors_to_encode(ops, SCHEME)}
    single = {name: type(code)(code.scales[[group]], code.zero_point) for name, code in codes.items()}
    return emit_graph(prepared, ops, single, weights, SCHEME)


@pytest.mark.parametrize("spatial", [1, 2])
def test_scales_of_a_group_are_bitwise_those_of_constants(spatial: int) -> None:
    prepared = body(spatial)
    grouped = open_session(lower(prepared, table(prepared, EDGES), CPU_X86).graph, optimize=True)
    outputs = []
    for group in range(len(FACTORS)):
        constant = open_session(one_group(prepared, group), optimize=True)(feeds(prepared))["output"]
        found = grouped({**feeds(prepared), GROUP: np.array([group])})["output"]
        np.testing.assert_array_equal(found, constant)
        outputs.append(found)
    assert not np.array_equal(outputs[0], outputs[-1])  # the groups do differ


def test_grouped_scales_keep_every_selected_operation_in_integer_kernels() -> None:
    prepared = body()
    lowered = lower(prepared, table(prepared, EDGES), CPU_X86)
    assert lowered.groups == EDGES
    assert lowered.graph.inputs[-1] == Value(GROUP, np.dtype(np.int64), (1,))
    assert set(lowered.coverage.int8_ops) == set(SELECTED)
    kernels = [node.op_type for node in optimize_graph(lowered.graph)]
    assert kernels.count("QLinearConv") == 3 and kernels.count("MatMulIntegerToFloat") == 1
    assert kernels.count("Conv") == 2  # the first and the last layer


def test_zero_points_and_biases_are_constants_so_that_the_fastest_kernel_is_chosen() -> None:
    prepared = body()
    graph = lower(prepared, table(prepared, EDGES), CPU_X86).graph
    for node in graph.nodes:
        if node.op == "QLinearConv":
            assert graph.is_constant(node.inputs[2]) and graph.is_constant(node.inputs[5]) and len(node.inputs) == 8


def test_the_linear_layer_is_the_integer_product() -> None:
    """MatMulIntegerToFloat computes (q_x - z_x) q_w exactly and then scales, as numpy does here."""
    prepared = body()
    graph = lower(prepared, table(prepared), CPU_X86).graph
    values = open_exact(graph, ["int8(tokens)", "mixed"])(feeds(prepared))
    c = graph.constants
    product = (values["int8(tokens)"].astype(np.int64) - int(c["zero_point(tokens)"])) @ c["int8(mixed.weight)"].astype(
        np.int64
    )
    expected = product * (c["scale(tokens)"] * c["scale(mixed.weight)"])
    np.testing.assert_allclose(values["mixed"], expected, rtol=1e-6, atol=1e-6)


def test_an_operation_that_onnxruntime_leaves_in_float_is_named() -> None:
    prepared = body()
    with pytest.raises(UserError, match="runs 'shortcut' in float"):
        count_integer_kernels(prepared, prepared, select_int8_ops(prepared))


def test_a_bias_inside_a_convolution_is_refused() -> None:
    prepared = body()
    biased = edit_nodes(prepared, "h2", "inner", constants={"inner": np.ones(32, np.float32)})
    with refuses(("'h2'", "bias as an input")):
        lower(biased, table(prepared), CPU_X86)


def attending(has_mask: bool = False) -> Graph:
    """x [B, 16, 8, 8] -> output: attention of four heads over the pixels, between convolutions."""
    b = Builder(spatial=2)
    b.constants |= {"flat": np.array([0, 32, 64]), "image": np.array([0, 32, 8, 8])}
    b.constants |= {"heads": np.array([0, 64, 4, 8]), "merged": np.array([0, 64, 32])}
    pixels = b.silu(b.conv("x", "h1", 16, 32), "a1")
    tokens = b.add("Transpose", (b.add("Reshape", (pixels, "flat"), "flattened"),), "tokens", perm=[0, 2, 1])

    def of_heads(name: str, perm: list[int]) -> str:
        made = b.add("MatMul", (tokens, b.random(f"{name}.weight", 32, 32, scale=0.2)), name)
        return b.add("Transpose", (b.add("Reshape", (made, "heads"), f"{name}_apart"),), f"{name}_heads", perm=perm)

    scores = b.add("MatMul", (of_heads("q", [0, 2, 1, 3]), of_heads("k", [0, 2, 3, 1])), "scores")
    masked = b.add("Add", (scores, b.random("mask", 64, 64, scale=1.0)), "masked") if has_mask else scores
    weights = b.add("Softmax", (masked,), "weights", axis=-1)
    seen = b.add("MatMul", (weights, of_heads("v", [0, 2, 1, 3])), "seen")
    seen = b.add("Reshape", (b.add("Transpose", (seen,), "turned", perm=[0, 2, 1, 3]), "merged"), "joined")
    mixed = b.add("MatMul", (seen, b.random("mixed.weight", 32, 32, scale=0.2)), "mixed")
    mixed = b.add("Reshape", (b.add("Transpose", (mixed,), "back", perm=[0, 2, 1]), "image"), "unflattened")
    b.add("Identity", (b.conv(b.add("Add", (mixed, pixels), "residual"), "h2", 32, 16),), "output")
    return b.graph(16, 8, 8)


def test_attention_without_a_mask_is_one_kernel() -> None:
    prepared = attending()
    lowered = lower(prepared, table(prepared), CPU_X86)
    assert (lowered.graph.ops().count("MultiHeadAttention"), lowered.graph.ops().count("Softmax")) == (1, 0)
    assert {"q", "k", "v", "mixed"} <= set(lowered.coverage.int8_ops)
    plain = lower(prepared, table(prepared), replace(CPU_X86, rewrites=()))
    one, other = (open_session(each.graph, optimize=True)(feeds(prepared))["output"] for each in (plain, lowered))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


def test_large_attention_with_a_mask_is_computed_a_head_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = attending(has_mask=True)
    given, ranges = feeds(prepared), table(prepared)
    whole = lower(prepared, ranges, CPU_X86)
    monkeypatch.setattr("fewstep.graph.passes.split_attention.LARGE", 64 * 64 * 4)
    parts = lower(prepared, ranges, CPU_X86)
    assert (whole.graph.ops().count("Softmax"), parts.graph.ops().count("Softmax")) == (1, 4)
    assert parts.coverage == whole.coverage and {"q", "k", "v", "mixed"} <= set(parts.coverage.int8_ops)
    one, other = (open_session(each.graph, optimize=True)(given)["output"] for each in (whole, parts))
    np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


def free_attention() -> Graph:
    """x [B, tokens, 32] -> y: attention of two heads between linear layers, reshaped by the Shape of a layer."""
    b = Builder(1)
    for name in ("first", "inner", "q", "k", "v", "out", "last"):
        b.random(f"{name}.weight", 32, 32, scale=32**-0.5)
    b.constants |= {"rows": np.array([0, 1]), "heads": np.array([2, 16])}

    def linear(x: str, name: str) -> str:
        return b.add("MatMul", (x, f"{name}.weight"), name)

    h = linear(linear("x", "first"), "inner")
    size = b.add("Shape", (h,), "size")
    split = b.add("Concat", (b.add("Gather", (size, "rows"), "counts"), "heads"), "split", axis=0)
    for name, perm in (("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])):
        b.add("Transpose", (b.add("Reshape", (linear(h, name), split), f"{name}_split"),), f"{name}_heads", perm=perm)
    b.constants["number"] = np.float32([0.5])  # as a mask, which keeps the three operations
    scores = b.add("Add", (b.add("MatMul", ("q_heads", "k_heads"), "scores"), "number"), "masked")
    weights = b.add("Softmax", (scores,), "weights", axis=-1)
    seen = b.add("Transpose", (b.add("MatMul", (weights, "v_heads"), "seen"),), "turned", perm=[0, 2, 1, 3])
    y = linear(linear(b.add("Reshape", (seen, size), "joined"), "out"), "last")
    values = (Value(name, np.dtype(np.float32), (BATCH, "tokens", 32)) for name in ("x", y))
    return Graph(
        "body", (next(values),), tuple(values), tuple(b.nodes), b.constants, extents={"tokens": Extent(8, 4, 16, 4)}
    )


def test_large_attention_with_a_mask_is_in_parts_at_free_sizes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """After an integer layer, shapes are known only in the prepared graph."""
    prepared, x = free_attention(), np.random.default_rng(2).standard_normal((3, 12, 32)).astype(np.float32)
    ranges, samples = table(fix_sizes(prepared)), []
    for large, parts in ((2 * 8 * 8 * 4, 1), (2 * 8 * 8 * 4 - 1, 2)):
        monkeypatch.setattr("fewstep.graph.passes.split_attention.LARGE", large)
        lowered = lower(prepared, ranges, CPU_X86)
        assert set(lowered.coverage.int8_ops) == {"inner", "q", "k", "v", "out"}
        assert lowered.graph.ops().count("Softmax") == parts
        samples.append(run(lowered.graph, {"x": x})["last"])
    np.testing.assert_array_equal(*samples)
