"""Dyadic histograms: the same counts for any batches, in any order."""

from functools import reduce

import numpy as np
import pytest

from fewstep.calibration.ranges.histogram import (
    BINS,
    MIN_EXPONENT,
    Histogram,
    coarsen,
    make_histogram,
    merge_histograms,
)


def same(a: Histogram, b: Histogram) -> bool:
    return (a.exponent, a.low, a.high) == (b.exponent, b.low, b.high) and np.array_equal(a.counts, b.counts)


def in_batches(values: np.ndarray, size: int) -> Histogram:
    return reduce(merge_histograms, (make_histogram(values[i : i + size]) for i in range(0, len(values), size)))


@pytest.fixture
def samples() -> np.ndarray:
    """[48, 5000] float32 whose rows differ in scale by 2^40, with zeros of both signs and subnormals."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal((48, 5000)) * 2.0 ** rng.integers(-20, 20, (48, 1))
    values[::3, :4] = [0.0, -0.0, 1e-45, -1e-45]
    return values.astype(np.float32)


@pytest.mark.parametrize("size", [1, 4, 16, 48])
def test_batch_size_and_order_change_nothing(samples: np.ndarray, size: int) -> None:
    whole = make_histogram(samples)
    rng = np.random.default_rng(size)
    assert same(in_batches(samples, size), whole)
    assert same(in_batches(samples[rng.permutation(48)][:, rng.permutation(5000)], size), whole)


@pytest.mark.parametrize("scale", [2.0**-126, 2.0**-20, 1.0, 2.0**20, 2.0**120])
def test_bins_are_floor_of_value_over_width(scale: float) -> None:
    values = (np.linspace(-1, 1, 4001) * scale).astype(np.float32)
    histogram = make_histogram(values)
    expected = np.floor(values.astype(np.float64) / 2.0**histogram.exponent).astype(int) + BINS
    assert np.array_equal(histogram.counts, np.bincount(expected, minlength=2 * BINS))
    assert histogram.stored.sum() == values.size


def test_the_sign_of_a_subnormal_survives_a_wide_range() -> None:
    values = np.array([-1e-45, 3e38], np.float32)
    assert same(make_histogram(values), merge_histograms(make_histogram(values[:1]), make_histogram(values[1:])))


def test_the_largest_magnitude_fills_at_least_half_of_its_side() -> None:
    for magnitude in (1.0, np.nextafter(np.float32(2), np.float32(0)), 1e-30, 3e38):
        bins = magnitude / 2.0 ** make_histogram(np.array([magnitude], np.float32)).exponent
        assert BINS / 2 <= bins < BINS


def test_zeros_are_one_bin_at_the_finest_width() -> None:
    zeros = make_histogram(np.zeros(7, np.float32))
    assert (zeros.exponent, zeros.counts[BINS], zeros.stored.sum()) == (MIN_EXPONENT, 7, 7)
    assert coarsen(zeros, 90).counts[BINS] == 7


@pytest.mark.parametrize(
    ("values", "reason"), [([], "no values"), ([1, np.nan, np.inf], "NaN"), ([1, -np.inf], "infinite")]
)
def test_values_that_cannot_be_counted_are_refused(values: list[float], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make_histogram(np.array(values, np.float32))


def test_only_bins_that_hold_something_are_kept_in_half_of_the_bytes_where_they_fit() -> None:
    silu = make_histogram(np.linspace(-0.27, 6, 40_000).astype(np.float32))
    assert silu.stored.nbytes < 2 * BINS * 8 / 4  # of all bins in int64
    assert silu.stored[0] and silu.stored[-1] and silu.counts.sum() == silu.stored.sum() == 40_000
    many = silu
    for _ in range(30):  # past what 32 bits hold
        many = merge_histograms(many, many)
    assert many.stored.sum() == 40_000 * 2**30 and many.stored.dtype == np.uint64


def test_bins_cannot_be_split() -> None:
    with pytest.raises(ValueError, match="cannot be split"):
        coarsen(make_histogram(np.ones(1, np.float32)), MIN_EXPONENT)
