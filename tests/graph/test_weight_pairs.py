"""Pairs of weights whose products are added in 16 bits, tried with all integers."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.graph.weight_pairs import LARGEST_SUM, limit_pairs
from fewstep.graph.weight_quantization import quantize_weight
from tests.exact_int8 import largest_pair_sum

CODES = np.array([0, 255])  # sums are linear in each code, so that the extremes are at its ends
EVERY = np.arange(-127, 128)
SHAPES = [(24, 16), (24, 16, 3), (24, 16, 3, 3), (24, 16, 1, 3, 3)]  # outputs, channels, taps


def saturates(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for which pairs of weights the sum of two products exceeds 16 bits with some codes."""
    sums = np.stack([code * first + other * second for code in CODES for other in CODES])
    limits = np.iinfo(np.int16)
    return np.asarray(((sums < limits.min) | (sums > limits.max)).any(axis=0))


def test_exactly_the_pairs_beyond_the_largest_sum_can_saturate() -> None:
    first, second = np.meshgrid(EVERY, EVERY)
    np.testing.assert_array_equal(saturates(first, second), np.abs(first + second) > LARGEST_SUM)


def test_a_pair_beyond_the_limit_shares_the_excess_and_one_of_opposite_signs_is_free() -> None:
    low, high = limit_pairs(np.array([[100.0, 80.0], [-100.0, -80.0], [120.0, -120.0], [127.0, 1.0]]), 1)
    assert high[0].tolist() == [74, 54] and low[1].tolist() == [-74, -54]
    assert high[2, 0] == 127 and low[2, 1] == -127
    assert high[3].tolist() == [127, 1]


def test_any_integers_within_the_limits_keep_the_largest_sum() -> None:
    exact = np.random.default_rng(0).standard_normal((64, 16 * 9)) * 80
    for end in limit_pairs(exact, 9):
        pairs = end.reshape(64, 8, 2, 9)
        assert np.abs(pairs.sum(axis=2)).max() <= LARGEST_SUM and np.abs(end).max() <= 127


@pytest.mark.parametrize("shape", SHAPES)
def test_pairs_are_neighbouring_channels_at_the_same_tap(shape: tuple[int, ...]) -> None:
    weight = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    values = quantize_weight(weight, 0, in_pairs=True).values.astype(np.int64)
    assert not saturates(values[:, 0::2], values[:, 1::2]).any()
    assert largest_pair_sum(values.astype(np.int8), 0) == np.abs(values[:, 0::2] + values[:, 1::2]).max() > 120
    assert np.abs(values).max() > 64


def test_the_pairs_of_a_matrix_are_rows_that_follow_each_other() -> None:
    weight = np.random.default_rng(2).standard_normal((16, 24)).astype(np.float32)
    columns = quantize_weight(weight, 1, in_pairs=True)
    np.testing.assert_array_equal(columns.values.T, quantize_weight(weight.T.copy(), 0, in_pairs=True).values)
    assert largest_pair_sum(columns.values, 1) == np.abs(columns.values[::2].astype(int) + columns.values[1::2]).max()


def test_an_odd_number_of_channels_limits_each_weight() -> None:
    """Kernels pair them differently."""
    weight = np.random.default_rng(3).standard_normal((24, 15, 3, 3)).astype(np.float32)
    values = quantize_weight(weight, 0, in_pairs=True).values
    assert np.abs(values).max() == 64 and largest_pair_sum(values, 0) == 128


def test_scales_are_as_fine_as_the_pairs_allow() -> None:
    """Like weights share 128, and opposite ones have 127 each."""
    scales = quantize_weight(np.float32([[1, 1], [1, -1], [1, 0]]), 0, in_pairs=True).scales
    np.testing.assert_allclose(1 / scales, [64, 127, 127], rtol=0.011)


def test_normal_weights_lose_less_than_half_of_what_7_bits_lose() -> None:
    weight = np.random.default_rng(4).standard_normal((64, 432)).astype(np.float32)
    losses = [
        np.square(quantize_weight(weight, 0, in_pairs=in_pairs).dequantize() - weight).mean()
        for in_pairs in (True, False)
    ]
    assert 10 * np.log10(losses[0] / losses[1]) < 3.0  # 6.0 with 7 bits
