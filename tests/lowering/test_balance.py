"""Weights whose rounding errors nearly cancel."""

import numpy as np
import pytest
from numpy.typing import NDArray

from fewstep.lowering.balance import _most, balanced
from fewstep.lowering.weights import quantize_weight

WEIGHT = np.random.default_rng(0).standard_normal((24, 16, 3, 3)).astype(np.float32)


def errors(weight: NDArray[np.float32], largest: int = 127) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """In steps, of the nearest integers and of balanced ones."""
    nearest = quantize_weight(weight, 0, "mse", largest=largest)
    found = balanced(nearest, weight, largest)
    assert np.array_equal(found.scales, nearest.scales) and found.values.dtype == np.int8
    assert np.abs(found.values.astype(int) - nearest.values).max() <= 2  # once by its kernel, once by its channel
    exact = weight.astype(np.float64) / nearest.scales.reshape(-1, *[1] * (weight.ndim - 1))
    return nearest.values - exact, found.values - exact


def test_sums_over_output_channels_are_at_most_half_a_step() -> None:
    before, after = errors(WEIGHT)
    assert np.abs(before.sum(axis=(1, 2, 3))).max() > 4
    assert np.abs(after.sum(axis=(1, 2, 3))).max() <= 0.5 + 1e-6


def test_sums_over_kernels_shrink_and_squares_hardly_grow() -> None:
    before, after = errors(WEIGHT)
    kernels = [np.square(each.sum(axis=(2, 3))).mean() for each in (before, after)]
    assert kernels[0] == pytest.approx(9 / 12, rel=0.1) and kernels[1] < 0.2 * kernels[0]
    assert np.square(after).mean() < 1.7 * np.square(before).mean()


def test_rows_of_a_matrix_are_balanced_along_their_own_axis() -> None:
    matrix = WEIGHT.reshape(24, -1)
    rows = balanced(quantize_weight(matrix, 0, "mse"), matrix, 127)
    turned = np.ascontiguousarray(matrix.T)
    columns = balanced(quantize_weight(turned, -1, "mse"), turned, 127)
    assert np.array_equal(columns.values.T, rows.values)
    assert np.abs((rows.dequantized() - matrix).sum(axis=1) / rows.scales).max() <= 0.5 + 1e-3


def test_no_integer_leaves_the_range() -> None:
    heavy = WEIGHT**3  # whose largest magnitudes are cut
    for largest in (127, 64, 7):
        found = balanced(quantize_weight(heavy, 0, "mse", largest=largest), heavy, largest)
        assert np.abs(found.values.astype(int)).max() <= largest
        before, after = errors(heavy, largest)
        assert np.abs(after.sum(axis=(1, 2, 3))).mean() < np.abs(before.sum(axis=(1, 2, 3))).mean()


def test_exact_weights_stay() -> None:
    weight = np.array([[127.0, -3.0, 4.0], [0.0, 0.0, 0.0]], np.float32)
    nearest = quantize_weight(weight, 0, "minmax")
    assert np.array_equal(balanced(nearest, weight, 127).values, nearest.values)


@pytest.mark.parametrize("count", [0, 1, 7, 40, 64])
@pytest.mark.parametrize("has_equal", [False, True])
def test_the_greatest_numbers_are_those_of_a_whole_sort(count: int, has_equal: bool) -> None:
    worth = np.random.default_rng(count).standard_normal((32, 64))
    worth = np.round(worth) if has_equal else worth
    worth[3, 10:30] = -np.inf
    assert np.array_equal(_most(worth, count), np.argsort(-worth, axis=1, kind="stable")[:, :count])
