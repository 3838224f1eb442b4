"""Order statistics and searches are equal to torch's."""

import pytest
import torch

from tests.export.tracing.operations import assert_equal_in_16_bits, assert_equal_to_torch

EDGES = torch.linspace(-1, 1, 5)
X = torch.randn(4, 3, 8, 5, generator=torch.Generator().manual_seed(0))


def test_order_statistics_are_equal_to_torch() -> None:
    statistics = {
        "third": lambda x: x.kthvalue(3)[0],
        "place": lambda x: x.kthvalue(2, dim=2, keepdim=True)[1],
        "odd": lambda x: x.median(-1)[0],
        "even": lambda x: x.median(2, keepdim=True)[0],
        "index": lambda x: x.median(2)[1],
        "all": lambda x: x.median(),
    }
    assert_equal_to_torch(statistics, X, 0.0)


@pytest.mark.slow
def test_the_most_frequent_element_is_torchs() -> None:
    modes = {
        "mode": lambda x: x.mode(2)[0],
        "index": lambda x: x.mode(2)[1],
        "kept": lambda x: x.mode(keepdim=True)[0],
        "of_one": lambda x: x[..., :1].mode()[1],
        "of_integers": lambda x: x.nan_to_num(0, 9, -9).int().mode(2)[0].float(),
    }
    few = X.round()  # several elements are equally frequent
    few[0, 0, :3], few[1, 0, 2:7], few[2, 2] = float("inf"), float("-inf"), 0.25
    for x in (X, few):
        assert_equal_to_torch(modes, x, 0.0)
        assert_equal_in_16_bits(modes, x, 0.0)


@pytest.mark.slow
def test_a_median_without_nan_is_torchs() -> None:
    medians = {
        "median": lambda x: x.nanmedian(2)[0],
        "kept": lambda x: x.nanmedian(-1, keepdim=True)[0],
        "all": lambda x: x.nanmedian(),
    }
    some = X.clone()
    some[0, 0, :3], some[1, :, 5], some[2, 1], some[3, 0, :4] = (float(each) for each in ("nan", "nan", "nan", "inf"))
    for x in (X, some):
        assert_equal_to_torch(medians, x, 0.0)
        assert_equal_in_16_bits(medians, x, 0.0)
    assert_equal_to_torch({"index": lambda x: x.nanmedian(2)[1]}, X, 0.0)


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


@pytest.mark.slow
def test_the_place_of_a_median_or_mode_is_not_that_of_a_nan() -> None:
    nan = float("nan")
    rows = torch.tensor([[nan, 4.0, 4.0, -1.0], [nan, -3.0, -5.0, -5.0], [nan, nan, 2.0, 2.0], [-1.0, -1.0, nan, nan]])
    assert rows[0].mode(-1)[0].item() == 4.0
    modes = {"mode": lambda x: x.mode(-1)[0], "place": lambda x: x.mode(-1)[1]}
    assert_equal_to_torch(modes, rows, 0.0)
    assert_equal_in_16_bits(modes, rows, 0.0)
    single = torch.tensor([[nan, 5.0, nan, nan], [nan, -7.0, nan, nan], [nan, nan, 0.0, nan], [nan, nan, nan, 3e4]])
    assert single.nanmedian(-1)[1].tolist() == [1, 1, 2, 3]
    medians = {"median": lambda x: x.nanmedian(-1)[0], "place": lambda x: x.nanmedian(-1)[1]}
    assert_equal_to_torch(medians, single, 0.0)
    assert_equal_in_16_bits(medians, single, 0.0)


def test_integers_have_no_nan() -> None:
    medians = {"of_integers": lambda x: x.nan_to_num(0, 9, -9).int().nanmedian(2)[0].float()}
    assert_equal_to_torch(medians, X * 4, 0.0)


def test_nan_is_the_largest_number() -> None:
    nan = float("nan")
    rows = torch.tensor([[nan, 4.0, -1.0, 2.0], [1.0, nan, nan, -5.0], [3.0, 2.0, 1.0, 0.0], [nan, nan, nan, nan]])
    assert rows[1].sort()[0].tolist()[:2] == [-5.0, 1.0]
    ordered = {
        "sort": lambda x: x.sort(1)[0],
        "place": lambda x: x.sort(dim=1, stable=True)[1],
        "descending": lambda x: x.sort(1, descending=True)[0],
        "third": lambda x: x.kthvalue(3, 1)[0],
        "median": lambda x: x.median(1)[0],
        "search": lambda x: torch.searchsorted(EDGES, x),
    }
    assert_equal_to_torch(ordered, rows, 0.0)
    assert_equal_in_16_bits(ordered, rows, 0.0)


def test_infinities_are_sorted_before_nan() -> None:
    rows = torch.tensor([[float("inf"), float("nan"), 1.0, float("-inf")]] * 3)
    assert_equal_to_torch({"sort": lambda x: x.sort(1)[0], "down": lambda x: x.sort(1, True)[0]}, rows, 0.0)
