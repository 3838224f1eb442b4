"""Weights of 4 bits in groups: scales, zero points and codes."""

import numpy as np
import pytest

from fewstep.graph.grouped_weights import (
    GroupedWeight,
    choose_scales,
    group_size,
    round_to_nearest,
    spread_groups,
)


def nearest(rows: np.ndarray, group: int, importance: np.ndarray | None = None) -> GroupedWeight:
    scales, zeros = choose_scales(rows, group, importance)
    codes = round_to_nearest(rows, *(spread_groups(table, group, rows.shape[1]) for table in (scales, zeros)))
    return GroupedWeight(codes, scales, zeros, group)


@pytest.mark.parametrize("inputs, group", [(768, 128), (320, 64), (96, 32), (100, 128), (72, 32)])
def test_the_group_is_the_one_that_is_padded_least(inputs: int, group: int) -> None:
    assert group_size(inputs) == group


def test_each_group_has_its_own_range() -> None:
    """One group has positive numbers only, and the last one has fewer inputs."""
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.uniform(0, 30, (4, 32)), rng.uniform(-1, 1, (4, 32)), rng.uniform(-9, 1, (4, 10))], 1)
    weight = nearest(rows, 32)
    assert weight.scales.shape == weight.zeros.shape == (4, 3) and weight.codes.shape == rows.shape
    assert (weight.zeros[:, 0] == 0).all() and (np.abs(weight.zeros[:, 1].astype(int) - 7.5) < 3).all()
    assert (weight.zeros[:, 2] > 10).all()
    steps = np.repeat([30 / 15, 2 / 15, 10 / 15], 32)[: rows.shape[1]]
    assert (np.abs(weight.dequantize().T - rows) / steps).max() < 1.2  # half a step, or a little cut
    assert np.square((weight.dequantize().T - rows) / steps).mean() < 1 / 11


def test_important_inputs_have_the_smaller_errors() -> None:
    rows = np.random.default_rng(1).standard_normal((64, 32))
    importance = np.where(np.arange(32) < 4, 1.0, 1e-3)
    alike, weighed = (np.square(nearest(rows, 32, weights).dequantize().T - rows) for weights in (None, importance))
    assert weighed[:, :4].mean() < 0.8 * alike[:, :4].mean() and weighed.mean() > alike.mean()


def test_a_group_of_zeros_stays_zero() -> None:
    weight = nearest(np.zeros((2, 64)), 32)
    assert not weight.dequantize().any() and (weight.scales > 0).all()


def test_infinite_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinite weights"):
        choose_scales(np.array([[1.0, np.inf]]), 32)
