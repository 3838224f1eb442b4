"""The exact result of a fused convolution, compared with sums in integers."""

import numpy as np
import pytest

from benchmarks.gpu.convolution_reference import compare, draw_operands, exact_sums, expected_result
from benchmarks.gpu.fused_convolution import BIAS, INVERSE_STEP, SCALE, WEIGHTS, Convolution, X, channels_last

torch = pytest.importorskip("torch")
SMALL = Convolution(2, 3, 4, 5, 6)


def sums_by_hand(x: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """A convolution with margins of zeros, by loops over its window."""
    height, width = x.shape[2:]
    padded = np.pad(x.astype(np.int64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    return sum(
        np.einsum("nchw,fc->nfhw", padded[:, :, i : i + height, j : j + width], weights[:, :, i, j].astype(np.int64))
        for i in range(3)
        for j in range(3)
    )


def test_sums_are_those_of_integers() -> None:
    given = draw_operands(SMALL, "sums", "cpu").by_number
    x, weights = given[X].numpy(), given[WEIGHTS].numpy()
    assert (exact_sums(given[X], given[WEIGHTS]).numpy() == sums_by_hand(x, weights)).all()


def test_a_sum_of_many_large_products_is_exact() -> None:
    """2 880 products of 127 * 127 are beyond the 2^24 up to which float32 counts."""
    x = torch.full((1, 320, 3, 3), 127, dtype=torch.int8)
    assert exact_sums(x, x)[0, 0, 1, 1] == 9 * 320 * 127**2


@pytest.mark.parametrize("form", ["linear", "silu", "int8"])
def test_scale_bias_and_silu_follow_the_sums(form: str) -> None:
    given = (operands := draw_operands(SMALL, form, "cpu")).by_number  # type: ignore[arg-type]
    value = sums_by_hand(given[X].numpy(), given[WEIGHTS].numpy()) * given[SCALE].numpy().astype(np.float64)
    value += given[BIAS].numpy()
    if form != "linear":
        value /= 1 + np.exp(-value)
    if form == "int8":
        value = np.clip(np.round(value * given[INVERSE_STEP].numpy()), -128, 127)
    found = expected_result(operands, form).numpy().astype(np.float64)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, value, rtol=1e-3, atol=1.0 if form == "int8" else 1e-3)


def test_scales_are_powers_of_two() -> None:
    scale = draw_operands(SMALL, "linear", "cpu").by_number[SCALE].numpy()
    assert (np.frexp(scale)[0] == 0.5).all()


def test_int8_takes_in_all_its_values() -> None:
    found = expected_result(draw_operands(Convolution(2, 64, 64, 16, 16), "int8", "cpu"), "int8")
    assert found.max() == 127 and -16 < found.min() < 0 and len(found.unique()) > 100


def test_results_that_differ_are_counted() -> None:
    operands = draw_operands(SMALL, "sums", "cpu")
    operands.result.copy_(expected_result(operands, "sums"))
    operands.result[0, 0, 0, 0] += 3
    found = compare(SMALL, "sums", "eng0", operands)
    assert (found.values, found.different, found.largest) == (240, 1, 3.0)


def test_results_have_their_channels_last() -> None:
    operands = draw_operands(SMALL, "half_silu", "cpu")
    assert list(operands.result.stride()) == channels_last(SMALL.y_shape) == [120, 1, 24, 4]
