"""Sorted rows are equal to torch's."""

import pytest
import torch

from tests.export.tracing.operations import assert_equal_in_16_bits, assert_equal_to_torch

pytestmark = pytest.mark.slow


def test_elements_of_a_list_are_found() -> None:
    numbers = torch.linspace(-1, 1, 5)
    x = torch.tensor([[0.5, 0.25, -1.0], [1.0, 0.0, 2.0], [3.0, 0.5, 1.0]])
    assert torch.isin(x, numbers)[0].tolist() == [True, False, True]
    assert_equal_to_torch({"isin": lambda x: torch.isin(x, numbers).int()}, x, 0.0)


def test_nan_is_the_largest_number() -> None:
    nan = float("nan")
    rows = torch.tensor([[nan, 4.0, -1.0, 2.0], [1.0, nan, nan, -5.0], [3.0, 2.0, 1.0, 0.0], [nan, nan, nan, nan]])
    assert rows[1].sort()[0].tolist()[:2] == [-5.0, 1.0]
    ordered = {
        "sort": lambda x: x.sort(1)[0],
        "place": lambda x: x.sort(dim=1, stable=True)[1],
        "descending": lambda x: x.sort(1, descending=True)[0],
    }
    assert_equal_to_torch(ordered, rows, 0.0)
    assert_equal_in_16_bits(ordered, rows, 0.0)


def test_infinities_are_sorted_before_nan() -> None:
    rows = torch.tensor([[float("inf"), float("nan"), 1.0, float("-inf")]] * 3)
    assert_equal_to_torch({"sort": lambda x: x.sort(1)[0], "down": lambda x: x.sort(1, True)[0]}, rows, 0.0)
