"""Weights to int8 per channel."""

import numpy as np
import pytest

from fewstep.calibration.lowering.weights import FACTORS, quantize_weight
from fewstep.graph.half_types import BFLOAT16

WEIGHT = np.random.default_rng(0).standard_normal((16, 8, 3, 3)).astype(np.float32) * np.geomspace(
    0.01, 10, 16, dtype=np.float32
).reshape(-1, 1, 1, 1)


def channel_errors(weight: np.ndarray, method: str) -> np.ndarray:
    restored = quantize_weight(weight, 0, method).dequantized().astype(np.float64)  # type: ignore[arg-type]
    return np.square(restored - weight).sum(axis=(1, 2, 3))


def test_minmax_error_is_at_most_half_a_step_per_channel() -> None:
    quantized = quantize_weight(WEIGHT, 0, "minmax")
    assert (np.abs(quantized.values).max(axis=(1, 2, 3)) == 127).all()
    error = np.abs(quantized.dequantized() - WEIGHT).max(axis=(1, 2, 3))
    assert (error <= quantized.scales * 0.5001).all()


def test_mse_is_never_worse_than_minmax_and_better_with_heavy_tails() -> None:
    assert (channel_errors(WEIGHT, "mse") <= channel_errors(WEIGHT, "minmax")).all()
    heavy = np.random.default_rng(1).laplace(size=(16, 128, 3, 3)).astype(np.float32)
    assert channel_errors(heavy, "mse").sum() < channel_errors(heavy, "minmax").sum()


def test_mse_finds_the_scale_that_brute_force_finds() -> None:
    row = WEIGHT[3].ravel().astype(np.float64)
    scales = np.abs(row).max() / 127 * np.linspace(0.4, 1, 601)
    best = min(np.square(np.clip(np.round(row / s), -127, 127) * s - row).sum() for s in scales)
    assert channel_errors(WEIGHT, "mse")[3] <= 1.05 * best


def test_the_channel_axis_may_be_the_last() -> None:
    matrix = WEIGHT.reshape(16, -1)
    rows, columns = quantize_weight(matrix, 0, "mse"), quantize_weight(np.ascontiguousarray(matrix.T), -1, "mse")
    assert (columns.values.shape, columns.axis) == ((72, 16), 1)
    assert np.array_equal(columns.values.T, rows.values) and np.array_equal(columns.scales, rows.scales)
    assert np.array_equal(columns.dequantized().T, rows.dequantized())


def test_a_channel_of_zeros_gets_scale_one() -> None:
    quantized = quantize_weight(np.zeros((2, 3), np.float32), 0, "mse")
    assert quantized.scales.tolist() == [1.0, 1.0] and not quantized.values.any()


def test_nan_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        quantize_weight(np.array([[np.nan]], np.float32), 0, "mse")


@pytest.mark.parametrize("method", ["minmax", "mse"])
def test_scales_are_numbers_of_the_type_they_are_written_in(method: str) -> None:
    scales = quantize_weight(WEIGHT, 0, method, np.float16).scales  # type: ignore[arg-type]
    assert np.array_equal(scales, scales.astype(np.float16)) and scales.dtype == np.float32
    quiet = quantize_weight(np.full((1, 4), 1e-9, np.float32), 0, method, np.float16)  # type: ignore[arg-type]
    assert quiet.scales.tolist() == [np.finfo(np.float16).smallest_subnormal] and not quiet.values.any()


def test_scales_are_numbers_of_bfloat16() -> None:
    """The least is its least normal number, which is float32's."""
    scales = quantize_weight(WEIGHT, 0, "mse", BFLOAT16).scales
    assert np.array_equal(scales, scales.astype(BFLOAT16)) and scales.dtype == np.float32
    quiet = quantize_weight(np.full((1, 4), 1e-40, np.float32), 0, "mse", BFLOAT16)
    assert quiet.scales.tolist() == [2.0**-126] and not quiet.values.any()


def test_a_quiet_channel_keeps_its_levels_in_half() -> None:
    """Its scale is a subnormal, half of the least normal number: 0.0039 / 127."""
    quiet = quantize_weight(np.float32([[0.0039, -0.0013]]), 0, "minmax", np.float16)  # type: ignore[arg-type]
    assert quiet.values.tolist() == [[127, -42]] and quiet.scales < np.finfo(np.float16).tiny / 1.9


def test_no_smaller_scale_would_have_been_better() -> None:
    """The search ends where none can win: all factors were tried for these."""
    rng = np.random.default_rng(4)
    for power, largest in ((1, 127), (1, 7), (3, 127), (3, 7)):  # heavy tails and few bits are cut deep
        weight = (rng.standard_normal((8, 300)) ** power).astype(np.float32)
        found = quantize_weight(weight, 0, "mse", largest=largest)
        errors = np.square(found.dequantized().astype(np.float64) - weight).sum(axis=1)
        for factor in FACTORS:
            scales = (factor * np.abs(weight).max(axis=1).astype(np.float64) / largest).astype(np.float32)[:, None]
            rounded = np.clip(np.rint(weight / scales.astype(np.float64)), -largest, largest)
            assert np.all(errors <= np.square(rounded * scales - weight).sum(axis=1) * (1 + 1e-6))
