"""Rounding by second moments, compared with the paper's formulas and with nearest rounding."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.calibration.lowering.gptq import DAMPING, correct_rounding, round_gptq, round_in_groups
from fewstep.calibration.ranges.moments import split_inputs
from fewstep.graph.graph import Node
from fewstep.graph.grouped_weights import group_size, quantize_in_groups
from fewstep.graph.selection import WeightedOp
from fewstep.graph.weight_quantization import quantize_weight
from tests.exact_int8 import largest_pair_sum

Float = NDArray[np.float64]


def correlate(inputs: int, seed: int = 0) -> Float:
    """Return second moments of correlated inputs, such as neighbouring pixels."""
    rng = np.random.default_rng(seed)
    x = np.maximum(rng.standard_normal((2048, 12)) @ rng.standard_normal((12, inputs)), 0)
    return x.T @ x / len(x)


def lost(error: Float, moments: Float) -> float:
    """tr(E H E^T)."""
    return float(np.einsum("oi,ij,oj->", error, moments, error))


def by_the_paper(rows: Float, scales: Float, moments: Float, largest: int) -> Float:
    """Algorithm 1 without blocks: the error of each column is spread by the inverse of H over all later columns."""
    order = np.argsort(-np.diag(moments), kind="stable")
    damped = moments[np.ix_(order, order)] + DAMPING * np.diag(moments).mean() * np.eye(len(order))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    left, integers = rows[:, order].copy(), np.empty_like(rows)
    for column in range(len(order)):
        scale = scales if scales.ndim == 1 else scales[:, order[column]]
        integers[:, order[column]] = np.clip(np.rint(left[:, column] / scale), -largest, largest)
        error = (left[:, column] - integers[:, order[column]] * scale) / upper[column, column]
        left[:, column:] -= np.outer(error, upper[column, column:])
    return integers


@pytest.mark.parametrize("largest", [127, 64, 7])
def test_integers_are_those_of_the_paper(largest: int) -> None:
    rows, moments = np.random.default_rng(0).standard_normal((2, 16, 72)), np.stack([correlate(72), correlate(72, 1)])
    scales = np.abs(rows).max(axis=2) / largest / 1.3  # some weights are cut
    integers = round_gptq(rows, scales, moments, (-largest, largest))
    expected = np.stack([by_the_paper(*each, largest) for each in zip(rows, scales, moments, strict=True)])
    np.testing.assert_array_equal(integers, expected)
    assert np.abs(integers).max() == largest


def test_less_than_a_third_of_the_error_is_left() -> None:
    rows, moments = np.random.default_rng(0).standard_normal((16, 72)), correlate(72)
    scales = np.abs(rows).max(axis=1) / 127
    integers = round_gptq(rows[None], scales[None], moments[None], (-127, 127))[0]
    nearest = np.rint(rows / scales[:, None])
    errors = [each * scales[:, None] - rows for each in (integers, nearest)]
    assert lost(errors[0], moments) < 0.3 * lost(errors[1], moments)


@pytest.mark.parametrize("moments", [np.eye(32), np.zeros((32, 32)), np.full((32, 32), np.inf)])
def test_without_correlation_or_moments_the_nearest_are_taken(moments: Float) -> None:
    rows = np.random.default_rng(1).uniform(-7, 7, (1, 4, 32))
    np.testing.assert_array_equal(round_gptq(rows, np.ones((1, 4)), moments[None], (-7, 7)), np.rint(rows))


CONV = WeightedOp(Node("Conv", ("x", "w"), ("y",), {"group": 2}), 10, 12, 0)
MATMUL = WeightedOp(Node("MatMul", ("x", "w"), ("y",)), 20, 24, 1)
TRANSPOSED = WeightedOp(Node("Gemm", ("x", "w"), ("y",), {"transB": 1}), 20, 24, 0)


@pytest.mark.parametrize("op, shape", [(CONV, (24, 10, 3, 3)), (MATMUL, (20, 24))])
@pytest.mark.parametrize("is_multiplied", [False, True])
def test_each_block_of_a_weight_has_its_own_moments(
    op: WeightedOp, shape: tuple[int, ...], is_multiplied: bool
) -> None:
    """Groups of a convolution, blocks of different widths, and multipliers of the channels."""
    rng, width = np.random.default_rng(2), 38
    weight = rng.standard_normal(shape).astype(np.float32)
    blocks = split_inputs(op, shape, width)
    sizes = [span.stop - span.start for span in blocks.spans]
    assert sizes == ([36, 36, 18] * 2 if op is CONV else [20]) and blocks.width == sizes[0]
    moments = np.zeros((len(sizes), blocks.width, blocks.width), np.float32)
    for number, size in enumerate(sizes):
        moments[number, :size, :size] = correlate(size, number)
    multipliers = rng.uniform(0.2, 2.0, 20) if is_multiplied else None
    nearest = quantize_weight(weight, op.axis)
    rounded = correct_rounding(nearest, weight, op, moments, multipliers)
    assert np.array_equal(rounded.scales, nearest.scales) and rounded.values.shape == shape
    rows, values, before = (
        np.moveaxis(each, op.axis, 0).reshape(24, -1).astype(np.float64)
        for each in (weight, rounded.values, nearest.values)
    )
    for number, span in enumerate(blocks.spans):
        outputs, inputs = blocks.place(span, slice(0, blocks.outputs))
        taps = np.ones(90) if multipliers is None else multipliers.repeat(9 if op is CONV else 1)[span]
        own = moments[number, : sizes[number], : sizes[number]] * np.outer(taps[: sizes[number]], taps[: sizes[number]])
        scales = nearest.scales[outputs].astype(np.float64)
        expected = by_the_paper(rows[outputs, inputs], scales, own, 127)
        if sizes[number] == blocks.width:  # padding changes the mean that damps
            np.testing.assert_array_equal(values[outputs, inputs], expected)
        errors = [each[outputs, inputs] * scales[:, None] - rows[outputs, inputs] for each in (values, before)]
        assert lost(errors[0], own) < 0.7 * lost(errors[1], own)


@pytest.mark.parametrize("op, shape", [(CONV, (24, 10, 3, 3)), (MATMUL, (20, 24)), (TRANSPOSED, (24, 20))])
def test_pairs_keep_their_limit_also_across_blocks(op: WeightedOp, shape: tuple[int, ...]) -> None:
    """Blocks of three channels, or of five inputs, separate pairs."""
    weight = np.random.default_rng(5).standard_normal(shape).astype(np.float32)
    blocks = split_inputs(op, shape, 27 if op is CONV else 5)
    assert any(span.start // blocks.taps % 2 for span in blocks.spans)
    moments = np.stack([correlate(blocks.width, number) for number in range(len(blocks.spans))]).astype(np.float32)
    nearest = quantize_weight(weight, op.axis, in_pairs=True)
    nearest = replace(nearest, scales=nearest.scales * np.float32(0.7))  # so that many pairs are cut
    limited = correct_rounding(nearest, weight, op, moments, None, in_pairs=True)
    assert 120 < largest_pair_sum(limited.values, op.axis) <= 128 < 2 * np.abs(limited.values.astype(int)).max()
    assert largest_pair_sum(correct_rounding(nearest, weight, op, moments, None).values, op.axis) > 128
    assert not np.array_equal(limited.values, nearest.values)


def test_parts_that_are_rounded_at_once_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(3).standard_normal((24, 10, 3, 3)).astype(np.float32)
    moments = np.stack([correlate(18, number) for number in range(10)]).astype(np.float32)
    nearest = quantize_weight(weight, 0)
    whole = correct_rounding(nearest, weight, CONV, moments, None)
    monkeypatch.setattr("fewstep.calibration.lowering.gptq.AT_ONCE", 1)
    assert np.array_equal(correct_rounding(nearest, weight, CONV, moments, None).values, whole.values)
    assert not np.array_equal(whole.values, nearest.values) and replace(whole, values=nearest.values).axis == 0


@pytest.mark.parametrize("op, shape", [(MATMUL, (200, 24)), (TRANSPOSED, (24, 200))])
def test_weights_of_4_bits_have_codes_by_moments(op: WeightedOp, shape: tuple[int, int]) -> None:
    """In two blocks of moments, and groups of 128, 64 or 32 inputs."""
    weight = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    op = replace(op, channels_in=200)
    moments = np.stack([correlate(100, number) for number in range(2)]).astype(np.float32)
    group = group_size(op.channels_in)
    rounded = round_in_groups(weight, op, moments, group)
    nearest = quantize_in_groups(np.moveaxis(weight, op.axis, 0), group)
    assert rounded.codes.shape == (24, 200) and rounded.codes.max() == 15 and rounded.codes.min() == 0
    rows = np.moveaxis(weight, op.axis, 0)
    errors = [weight.dequantize().T - rows for weight in (rounded, nearest)]
    for number, span in enumerate(split_inputs(op, shape, 100).spans):
        assert lost(errors[0][:, span], moments[number]) < 0.5 * lost(errors[1][:, span], moments[number])
    assert np.square(errors[1]).mean() < np.square(errors[0]).mean()


def test_each_input_may_have_its_own_scale() -> None:
    rows, moments = np.random.default_rng(0).standard_normal((16, 72)), correlate(72)
    scales = np.random.default_rng(1).uniform(0.1, 0.4, (16, 72))
    integers = round_gptq(rows[None], scales[None], moments[None], (-7, 7))[0]
    np.testing.assert_array_equal(integers, by_the_paper(rows, scales, moments, 7))
