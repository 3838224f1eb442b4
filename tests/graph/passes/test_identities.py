"""Operations that are removed: those that change nothing, compute constants, or move axes and parts back and forth."""

from typing import Any

import numpy as np
import pytest

from fewstep.graph.passes.concat import split_concat
from fewstep.graph.passes.constants import drop_unused, fold_constants
from fewstep.graph.passes.conv_transpose import expand_conv_transpose
from fewstep.graph.passes.identities import drop_expands, drop_identities, merge_layout
from fewstep.graph.prepare import simplify
from tests.graph.small_graphs import assert_rewritten, assert_same, node, small, value
from tests.onnx_text import graph_of_text

ONES = np.ones((3, 1), np.float32)
CONSTANTS = {"ones": ONES, "zeros": 0 * ONES, "wide": np.ones((3, 2), np.float32)}
TRUTHS = {
    "true": np.ones((3, 1), bool),
    "false": np.zeros((3, 1), bool),
    "some": np.array([[True], [False], [True]]),
    "true_wide": np.ones((3, 2), bool),
    "zero": np.float32(0),
}
RNG = np.random.default_rng(0)


def weights(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(
    "identity",
    [
        *("Identity(a)", "Dropout(a)", "Cast<to=1>(a)", "Mul(a, ones)", "Mul(ones, a)", "Div(a, ones)"),
        *("Add(a, zeros)", "Sub(a, zeros)", "Transpose<perm=[0, 1, 2]>(a)", "Reshape(a, same)", "Expand(a, unit)"),
        *("Where(true, a, zero)", "Where(false, zero, a)"),
    ],
)
def test_what_returns_its_input_is_dropped(identity: str) -> None:
    text = f"(float[batch, 3, 4] x) => (float[batch, 3, 4] y) {{ a = Relu(x) b = {identity} y = Neg(b) }}"
    shapes = {"same": np.int64([0, 3, 4]), "unit": np.int64([1, 1, 1])}
    assert_rewritten(drop_identities, text, "Relu Neg", **CONSTANTS, **TRUTHS, **shapes)


@pytest.mark.parametrize(
    "operation",
    [
        *("Div(ones, a)", "Sub(zeros, a)", "Cast<to=11>(a)", "Transpose<perm=[0, 2, 1]>(a)"),
        "Mul(a, wide)",  # ones, but they broadcast
        *("Where(true_wide, a, zero)", "Where(some, a, zero)", "Where(false, a, zero)"),
    ],
)
def test_what_changes_its_input_stays(operation: str) -> None:
    made = "double" if operation.startswith("Cast") else "float"
    text = f"(float[batch, 3, 1] x) => ({made}[batch, ?, ?] y) {{ a = Relu(x) b = {operation} y = Neg(b) }}"
    assert_rewritten(drop_identities, text, None, **CONSTANTS, **TRUTHS)


REWRITES: dict[str, tuple[Any, str, str | None, dict[str, Any]]] = {
    "an output keeps its name": (
        drop_identities,
        "(float[batch, 3] x) => (float[batch, 3] y) { a = Relu(x) y = Identity(a) }",
        "Relu Identity",
        {},
    ),
    "two Reshapes become one": (
        merge_layout,
        "(float[batch, 3, 4] x) => (float[any, 4, 3] y) { a = Reshape(x, first) y = Reshape(a, second) }",
        "Reshape",
        {"first": np.int64([0, 12]), "second": np.int64([0, 4, 3])},
    ),
    "two Reshapes with the batch left over become one": (
        merge_layout,
        "(float[batch, 3, 4] x) => (float[any, 4, 3] y) { a = Reshape(x, first) y = Reshape(a, second) }",
        "Reshape",
        {"first": np.int64([-1, 12]), "second": np.int64([-1, 4, 3])},
    ),
    "a Reshape that keeps an axis which another one made stays": (
        merge_layout,
        "(float[batch, 3, 4] x) => (float[any, 3, 1] y) { a = Reshape(x, first) y = Reshape(a, second) }",
        None,
        {"first": np.int64([-1, 3]), "second": np.int64([0, 3, 1])},
    ),
    "an Expand that makes the shape stays": (
        drop_expands,
        "(float[batch, 3] x, float[1, 3] row) => (float[batch, 3] y)"
        "{ size = Shape(x) rows = Expand(row, size) y = Add(rows, row) }",
        None,
        {},
    ),
    "what depends on constants alone becomes a constant": (
        fold_constants,
        "(float[batch, 4] x) => (float[batch, 4] y)"
        "{ r = Range(zero, four, one) n = Cast<to=1>(r) scale = Mul(n, half) y = Mul(x, scale) }",
        "Mul",
        {"zero": np.int64(0), "four": np.int64(4), "one": np.int64(1), "half": 0.5},
    ),
    "a constant is not blown up": (
        fold_constants,
        "(float[batch, 1000] x) => (float[batch, 1000, 1000] y) { zeros = Expand(zero, shape) y = Add(x, zeros) }",
        None,
        {"zero": 0.0, "shape": np.int64([1, 1000, 1000])},
    ),
    "a random number is no constant": (
        fold_constants,
        "() => (float[2] y) { r = RandomNormal<shape=[2]>() y = Add(r, one) }",
        None,
        {"one": 1.0},
    ),
    "what no output needs is dropped": (
        drop_unused,
        "(float[batch, 2] x) => (float[batch, 2] y) { y = Relu(x) unused = Mul(x, two) }",
        "Relu",
        {"two": 2.0},
    ),
}


@pytest.mark.parametrize(("rewrite", "text", "ops", "constants"), REWRITES.values(), ids=REWRITES)
def test_what_is_said_twice_is_said_once(rewrite: Any, text: str, ops: str | None, constants: dict[str, Any]) -> None:
    assert_rewritten(rewrite, text, ops, **constants)


def test_two_transposes_become_one() -> None:
    text = "y = Transpose<perm=[0, 2, 3, 1]>(a)"
    text = f"(float[batch, 3, 4, 5] x) => (float[batch, 5, 3, 4] y) {{ a = Transpose<perm=[0, 2, 3, 1]>(x) {text} }}"
    after = assert_rewritten(merge_layout, text, "Transpose")
    assert list(after.nodes[0].attributes["perm"]) == [0, 3, 1, 2]


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("order", ["time, ones", "ones, time"])
def test_what_broadcasts_anyway_is_not_expanded(op: str, order: str) -> None:
    """So a time does not depend on x, from which the ones get their batch."""
    text = f"size = Shape<start=0, end=1>(x) ones = Expand(two, size) z = {op}({order}) y = Neg(x)"
    ports = "(float[batch, 3] x, float[batch] time) => (float[batch, 3] y, float[batch] z)"
    assert_rewritten(drop_expands, f"{ports} {{ {text} }}", f"{op} Neg", two=2.0)


def test_a_node_is_folded_whole_or_not_at_all() -> None:
    """Unique of 800 KB of zeros: the first output has 4 bytes, but the third, with 1.6 MB, is too large for a
    constant.
    """
    before = graph_of_text(
        "(int64[batch, 1] x, float[batch, 1] scale) => (int64[batch, 200000] y, float[batch, 1] z)"
        "{ values, first, inverse = Unique(zeros) y = Add(x, inverse) z = Mul(scale, values) }",
        zeros=np.zeros(200_000, np.float32),
    )
    assert_same(before, drop_unused(fold_constants(before)))


def deconvolution(kernel: tuple[int, ...], made: tuple[int, ...], **attributes: Any) -> Any:
    """x [B, 3, 5, ...] to y [B, 2, *made], with a bias."""
    return small(
        [value("x", "batch", 3, *[5] * len(kernel))],
        [value("y", "batch", 2, *made)],
        [node("ConvTranspose", "x w b", "y", kernel_shape=list(kernel), **attributes)],
        w=weights(3, 2, *kernel),
        b=weights(2),
    )


@pytest.mark.parametrize(
    ("kernel", "made", "attributes", "ops"),
    [
        ((2, 2), (10, 10), {"strides": [2, 2]}, ("Conv", "DepthToSpace", "Add")),
        ((4, 4), (10, 10), {"strides": [2, 2], "pads": [1] * 4}, ("Conv", "DepthToSpace", "Slice", "Add")),
        ((3, 3), (10, 10), {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}, None),
        ((3, 5), (12, 13), {"strides": [2, 2], "pads": [0, 0, 1, 0], "output_padding": [2 - 1, 0]}, None),
        ((3, 3), (5, 5), {"pads": [1] * 4}, ("Conv", "Slice", "Add")),
        ((4,), (10,), {"strides": [2], "pads": [1, 1]}, ("Conv", "Reshape", "Transpose", "Reshape", "Slice", "Add")),
        ((3,), (15,), {"strides": [3]}, ("Conv", "Reshape", "Transpose", "Reshape", "Add")),
    ],
)
def test_a_transposed_convolution_becomes_one_whose_channels_are_phases(
    kernel: tuple[int, ...], made: tuple[int, ...], attributes: dict[str, Any], ops: tuple[str, ...] | None
) -> None:
    before = deconvolution(kernel, made, **attributes)
    after = expand_conv_transpose(before)
    assert ops is None or after.ops() == ops
    assert "ConvTranspose" not in after.ops()
    assert_same(before, after, rtol=1e-6)
    assert_same(before, simplify(before), rtol=1e-6)


@pytest.mark.parametrize("attributes", [{"dilations": [2, 2]}, {"auto_pad": b"SAME_UPPER"}, {"strides": [1, 2]}])
def test_other_forms_stay(attributes: dict[str, Any]) -> None:
    before = deconvolution((2, 2), (5, 5), **attributes)
    assert expand_conv_transpose(before).nodes == before.nodes


def test_a_conv_of_three_sources_becomes_three_convs() -> None:
    text = """(float[batch, 2, 5, 5] a, float[batch, 3, 5, 5] b, float[batch, 1, 5, 5] c) => (float[batch, 4, 5, 5] y)
    { all = Concat<axis=1>(a, b, c) y = Conv<pads=[1, 1, 1, 1], kernel_shape=[3, 3]>(all, w, bias) }"""
    made = assert_rewritten(split_concat, text, "Conv Conv Add Conv Add", 1e-6, w=weights(4, 6, 3, 3), bias=weights(4))
    assert sum(len(each.inputs) == 3 for each in made.nodes if each.op == "Conv") == 1  # the bias is added once


def test_a_matmul_of_two_sources_becomes_two() -> None:
    text = """(float[batch, 7, 2] a, float[batch, 7, 3] b) => (float[batch, 7, 4] y)
    { all = Concat<axis=-1>(a, b) y = MatMul(all, w) }"""
    assert_rewritten(split_concat, text, "MatMul MatMul Add", 1e-6, w=weights(5, 4))


@pytest.mark.parametrize(("axis", "height", "group"), [(2, 10, 1), (1, 5, 2)], ids=["other-axis", "grouped"])
def test_a_concat_of_other_axes_and_a_grouped_conv_stay(axis: int, height: int, group: int) -> None:
    text = f"""(float[batch, 2, 5, 5] a, float[batch, 2, 5, 5] b) => (float[batch, 4, {height}, 5] y)
    {{ all = Concat<axis={axis}>(a, b) y = Conv<group={group}, pads=[1, 1, 1, 1], kernel_shape=[3, 3]>(all, w) }}"""
    assert_rewritten(split_concat, text, None, w=weights(4, 2, 3, 3))
