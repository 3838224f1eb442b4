"""Sorted rows and searches are equal to torch's."""

import pytest
import torch

from tests.export.tracing.operations import assert_equal_in_16_bits, assert_equal_to_torch

pytestmark = pytest.mark.slow

EDGES = torch.linspace(-1, 1, 5)
X = torch.randn(4, 3, 8, 5, generator=torch.Generator().manual_seed(0))


def test_searches_are_equal_to_torch_on_the_edges_too() -> None:
    searches = {
        "left": lambda x: torch.searchsorted(EDGES, x),
        "right": lambda x: torch.searchsorted(EDGES, x, right=True),
        "side": lambda x: torch.searchsorted(EDGES, x, side="right", out_int32=True),
        "sorter": lambda x: torch.searchsorted(EDGES.flip(0), x, sorter=torch.arange(4, -1, -1)),
        "rows": lambda x: torch.searchsorted(x.sort(-1)[0], x.flip(-1)),
        "isin": lambda x: torch.isin(x, EDGES).int(),
    }
    assert_equal_to_torch(searches, torch.cat([X.flatten(1), EDGES.tile(4, 3)], 1), 0.0)


def test_nan_is_the_largest_number() -> None:
    nan = float("nan")
    rows = torch.tensor([[nan, 4.0, -1.0, 2.0], [1.0, nan, nan, -5.0], [3.0, 2.0, 1.0, 0.0], [nan, nan, nan, nan]])
    assert rows[1].sort()[0].tolist()[:2] == [-5.0, 1.0]
    ordered = {
        "sort": lambda x: x.sort(1)[0],
        "place": lambda x: x.sort(dim=1, stable=True)[1],
        "descending": lambda x: x.sort(1, descending=True)[0],
        "search": lambda x: torch.searchsorted(EDGES, x),
    }
    assert_equal_to_torch(ordered, rows, 0.0)
    assert_equal_in_16_bits(ordered, rows, 0.0)


def test_infinities_are_sorted_before_nan() -> None:
    rows = torch.tensor([[float("inf"), float("nan"), 1.0, float("-inf")]] * 3)
    assert_equal_to_torch({"sort": lambda x: x.sort(1)[0], "down": lambda x: x.sort(1, True)[0]}, rows, 0.0)
